r"""Pooling of sentence-transformers: one vector per text, from the vectors of its tokens.

| mode                   | vector of a text with tokens 1 to n                    |
|------------------------|--------------------------------------------------------|
| `cls`                  | $x_1$                                                  |
| `lasttoken`            | $x_n$                                                  |
| `max`                  | the maximum of each feature                            |
| `mean`                 | $\sum_i x_i / n$                                       |
| `mean_sqrt_len_tokens` | $\sum_i x_i / \sqrt{n}$                                |
| `weightedmean`         | $\sum_i i \, x_i / \sum_i i$                           |

Several modes are concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def pool(x: np.ndarray, mask: np.ndarray, modes: Sequence[str]) -> np.ndarray:
    """Pool hidden states over the real tokens of each text.

    Args:
        x: last hidden states, `(text, position, feature)`.
        mask: boolean mask, `(text, position)`, True at real tokens; each text has one at least.
        modes: names in `MODES`.
    """
    return np.concatenate([_pooled(x, mask, mode) for mode in modes], axis=-1)


def normalise(x: np.ndarray) -> np.ndarray:
    """Scale vectors to length 1; zeros stay zero."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _pooled(x: np.ndarray, mask: np.ndarray, mode: str) -> np.ndarray:
    rows, real = np.arange(len(x)), mask[..., None]
    if mode == "cls":
        return x[rows, mask.argmax(axis=1)]
    if mode == "lasttoken":
        return x[rows, mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)]
    if mode == "max":
        highest: np.ndarray = np.where(real, x, -np.inf).max(axis=1)
        return highest
    weights = np.where(mask, mask.cumsum(axis=1) if mode == "weightedmean" else 1, 0).astype(x.dtype)
    total = np.einsum("tpf,tp->tf", x, weights)
    count = weights.sum(axis=1, keepdims=True)
    return total / (np.sqrt(count) if mode == "mean_sqrt_len_tokens" else count)
