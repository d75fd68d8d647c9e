"""Position schemes on (batch, heads, length, head_dim): what each makes of queries, keys and scores."""

import numpy as np

from attention_bridge.oracles.common import Array


def rotary(
    x: Array, positions: Array, rotary_dim: int, *, base: float = 10000.0, interleaved: bool = False
) -> Array:
    """(x_a, x_b) -> (x_a cos mθ - x_b sin mθ, x_b cos mθ + x_a sin mθ) for every pair (Su et al. 2021, eq. 15).

    `positions` (batch, length); pair i is the features i and i + d/2, or 2i and 2i + 1 if `interleaved`.
    """
    turned = x.copy()
    for i in range(rotary_dim // 2):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + rotary_dim // 2)
        angle = (positions * base ** (-2 * i / rotary_dim))[:, None]  # batch 1 length
        turned[..., a] = x[..., a] * np.cos(angle) - x[..., b] * np.sin(angle)
        turned[..., b] = x[..., b] * np.cos(angle) + x[..., a] * np.sin(angle)
    return turned
