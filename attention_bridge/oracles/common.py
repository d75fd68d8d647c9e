"""Functions shared by the oracles: projections, norms, activations and attention, one row at a time.

Arrays are float64, or complex128 for complex-step derivatives (see `gradient`). Every function is therefore
complex-analytic: comparisons use only the real part, and there is no conjugate and no absolute value.
"""

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray
Parameters: TypeAlias = Mapping[str, np.ndarray]


def scope(parameters: Parameters, name: str) -> dict[str, Array]:
    """Select the parameters of the submodule `name`, without that prefix."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in parameters.items() if key.startswith(prefix)}


def linear(parameters: Parameters, name: str, x: Array) -> Array:
    """Linear layer W x + b with W of shape (out, in); W x without `NAME.bias`."""
    y = x @ parameters[f"{name}.weight"].T
    bias = parameters.get(f"{name}.bias")
    return y if bias is None else y + bias


def layer_norm(parameters: Parameters, name: str, x: Array, eps: float) -> Array:
    """Layer norm γ (x − μ) / √(σ² + ε) + β with biased variance σ² = mean (x − μ)² (Ba, Kiros, Hinton 2016)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    normed = parameters[f"{name}.weight"] * centred / np.sqrt(variance + eps)
    bias = parameters.get(f"{name}.bias")
    return normed if bias is None else normed + bias


def rms_norm(parameters: Parameters, name: str, x: Array, eps: float) -> Array:
    """RMS norm γ x / √(mean x² + ε) (Zhang, Sennrich 2019)."""
    return parameters[f"{name}.weight"] * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def relu(x: Array) -> Array:
    """ReLU, max(x, 0); the sign of the real part decides."""
    return np.where(x.real > 0, x, 0.0)


def erf(x: Array) -> Array:
    """Error function 2/√π ∫₀ˣ exp(−t²) dt, to first order in the imaginary part of x."""
    real = np.vectorize(math.erf, otypes=[np.float64])(x.real)
    if not np.iscomplexobj(x):
        return real
    # erf(x + iy) = erf(x) + iy·2/√π·exp(−x²) + O(y²): exact for the infinitesimal y of a complex step.
    return real + 1j * x.imag * (2 / math.sqrt(math.pi)) * np.exp(-x.real * x.real)


def gelu(x: Array) -> Array:
    """GELU, x Φ(x) = x/2 (1 + erf(x/√2)) (Hendrycks, Gimpel 2016)."""
    return x / 2 * (1 + erf(x / math.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    """GELU approximated by tanh, x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))) (Hendrycks, Gimpel 2016)."""
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh}


def feed_forward(parameters: Parameters, x: Array, activation: str) -> Array:
    """Feed-forward network W₂ f(W₁ x + b₁) + b₂, W₁ `up_proj` and W₂ `down_proj` (Vaswani et al. 2017, eq. 2)."""
    return linear(parameters, "down_proj", ACTIVATIONS[activation](linear(parameters, "up_proj", x)))


def row(array: Array, b: int, h: int, i: int) -> Array:
    """Row i of a mask or bias for batch b and head h.

    Possible shapes are (query, key), (batch|1, query, key) and (batch|1, heads|1, query|1, key).
    """
    if array.ndim == 2:
        return array[i]
    if array.ndim == 3:
        return array[b if len(array) > 1 else 0, i]
    batch, heads, query_len, _ = array.shape
    return array[b if batch > 1 else 0, h if heads > 1 else 0, i if query_len > 1 else 0]


def visible(mask: Array | None, b: int, h: int, i: int, key_len: int) -> Array:
    """Boolean array of the keys that query i attends to in batch b and head h; all True without a mask."""
    if mask is None:
        return np.ones(key_len, dtype=bool)
    if mask.dtype != bool:
        raise TypeError(f"mask: expected bool, got {mask.dtype}")
    return row(mask, b, h, i)


def visible_causally(i: int, key_len: int, window: int | None, query_offset: int) -> Array:
    """Keys j ≤ p, or p − W < j ≤ p with a window W, of the query at position p = i + query_offset."""
    key_position = np.arange(key_len)
    position = i + query_offset
    seen = key_position <= position
    return seen if window is None else seen & (position - window < key_position)


def softmax(scores: Array, visible: Array, sink: Array | None = None) -> Array:
    """Softmax α_j = exp(s_j) / Σ_k exp(s_k) over the visible keys of one row, 0 elsewhere; 0 in a fully masked row.

    With `sink` b, exp(b) is added to the denominator.
    """
    weights = np.zeros_like(scores) if sink is None else np.zeros_like(scores + sink)
    if visible.any():
        seen = scores[visible]
        top = seen.real.max() if sink is None else max(seen.real.max(), sink.real)
        exponentials = np.exp(seen - top)  # a real shift cancels and prevents overflow of exp
        weights[visible] = exponentials / (exponentials.sum() + (0.0 if sink is None else np.exp(sink - top)))
    return weights


def dropout(weights: Array, keep: Array | None, rate: float) -> Array:
    """Dropout: α_j / (1 − rate) where `keep` is True, 0 elsewhere (Srivastava et al. 2014, scaled in training)."""
    if keep is None:
        return weights
    dropped = np.zeros_like(weights)
    dropped[keep] = weights[keep] / (1 - rate)
    return dropped


def attend(
    score: Callable[[Parameters, Array, Array], Array],
    parameters: Parameters,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    dropout_keep: Array | None,
    dropout_rate: float,
) -> tuple[Array, Array]:
    """Single-head attention: α_i = softmax_j score(q_i, k_j), o_i = Σ_j α_ij v_j.

    `score` maps the parameters, one query (query_dim) and all keys (key, key_dim) to the scores (key).
    Returns the output (batch, query, value_dim) and the weights α (batch, query, key) before dropout.
    """
    batch, query_len, _ = query.shape
    key_len, value_dim = value.shape[1:]
    dtype = np.result_type(query, key, value, *parameters.values())
    output = np.zeros((batch, query_len, value_dim), dtype)
    weights = np.zeros((batch, query_len, key_len), dtype)

    for b in range(batch):
        for i in range(query_len):
            scores = score(parameters, query[b, i], key[b])
            weights[b, i] = softmax(scores, visible(mask, b, 0, i, key_len))
            keep = None if dropout_keep is None else dropout_keep[b, i]
            output[b, i] = dropout(weights[b, i], keep, dropout_rate) @ value[b]

    return output, weights


def dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    *,
    is_causal: bool = False,
    window: int | None = None,
    query_offset: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention softmax(Q Kᵀ / √d) V on (batch, heads, length, head_dim) (Vaswani et al. 2017, eq. 1).

    The steps are, in order: s_ij = scale q_i·k_j, add bias_ij, c tanh(s_ij / c), mask, softmax, dropout, values.

    - Query head h uses key/value head h // (num_heads // num_kv_heads) (Ainslie et al. 2023).
    - `bias` has one of the shapes of a mask; −∞ in it masks a key.
    - `is_causal` allows keys at positions j ≤ i + query_offset.
    - `window` W, only with `is_causal`, allows the last W of these keys, with the query's own (Beltagy et al. 2020).
    - `softcap` c bounds the scores to (−c, c) (Gemma 2, 2024).
    - `sinks` b adds exp(b_h) to the softmax's denominator (gpt-oss, 2025).

    Returns the output and the weights (batch, heads, query, key) before dropout.
    """
    if window is not None and not is_causal:
        raise ValueError("window: needs is_causal=True")
    batch, num_heads, query_len, head_dim = query.shape
    num_kv_heads, key_len, value_dim = value.shape[1:]
    if scale is None:
        scale = 1 / math.sqrt(head_dim)
    dtype = np.result_type(query, key, value, *(x for x in (bias, sinks) if x is not None))
    output = np.zeros((batch, num_heads, query_len, value_dim), dtype)
    weights = np.zeros((batch, num_heads, query_len, key_len), dtype)

    for b in range(batch):
        for h in range(num_heads):
            g = h // (num_heads // num_kv_heads)
            for i in range(query_len):
                seen = visible(mask, b, h, i, key_len)
                if is_causal:
                    seen = seen & visible_causally(i, key_len, window, query_offset)

                scores = scale * (key[b, g] @ query[b, h, i])
                if bias is not None:
                    added = row(bias, b, h, i)
                    seen = seen & (added.real != -np.inf)  # checked before the softcap, which makes −∞ finite
                    scores = scores + np.where(seen, added, 0.0)
                if softcap is not None:
                    scores = softcap * np.tanh(scores / softcap)

                sink = None if sinks is None else sinks[h]
                weights[b, h, i] = softmax(scores, seen, sink)
                keep = None if dropout_keep is None else dropout_keep[b, h, i]
                output[b, h, i] = dropout(weights[b, h, i], keep, dropout_rate) @ value[b, g]

    return output, weights


def split_heads(x: Array, num_heads: int) -> Array:
    """Split (batch, length, heads · head_dim) into (batch, heads, length, head_dim); head h is the h-th slice."""
    head_dim = x.shape[-1] // num_heads
    return np.stack([x[:, :, h * head_dim : (h + 1) * head_dim] for h in range(num_heads)], axis=1)


def merge_heads(x: Array) -> Array:
    """Concatenate the heads, the inverse of `split_heads`."""
    return np.concatenate([x[:, h] for h in range(x.shape[1])], axis=-1)


def multi_head_attention(
    parameters: Parameters,
    query: Array,
    memory: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    is_causal: bool = False,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Multi-head attention of X to M (Vaswani et al. 2017, section 3.2.2).

    MultiHead = Concat(head_1, ..., head_h) W^O, head_h = Attention(X W_h^Q, M W_h^K, M W_h^V).
    Parameters: `q_proj`, `k_proj`, `v_proj`, `out_proj`; W_h is rows h · head_dim to (h + 1) · head_dim of a weight.
    """
    heads, weights = dot_product_attention(
        split_heads(linear(parameters, "q_proj", query), num_heads),
        split_heads(linear(parameters, "k_proj", memory), num_heads),
        split_heads(linear(parameters, "v_proj", memory), num_heads),
        mask=mask,
        is_causal=is_causal,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    return linear(parameters, "out_proj", merge_heads(heads)), weights
