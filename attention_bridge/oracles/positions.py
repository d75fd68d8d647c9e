"""Reference implementation of positional encodings, on arrays (batch, heads, length, head_dim)."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from attention_bridge.oracles.common import (
    Array,
    Parameters,
    dot_product_attention,
    linear,
    merge_heads,
    scope,
    split_heads,
)

Turn = Callable[[Array, Array], Array]
Bias = Callable[[Parameters, Array, Array, Array], Array]


def attention_with_positions(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    positions: Array,
    num_heads: int,
    num_kv_heads: int,
    turn: Turn = lambda heads, positions: heads,
    shift: Callable[[Parameters, Array], Array] = lambda parameters, query: query,
    bias: Bias | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Self-attention with a positional encoding that rotates queries and keys, shifts queries or biases the scores.

    `positions` is (batch, length) or (batch, length, axes); the encoding's parameters have the prefix `position`.
    """
    own = scope(parameters, "position")
    query = split_heads(linear(parameters, "q_proj", x), num_heads)
    key = split_heads(linear(parameters, "k_proj", x), num_kv_heads)
    heads, weights = dot_product_attention(
        turn(shift(own, query), positions),
        turn(key, positions),
        split_heads(linear(parameters, "v_proj", x), num_kv_heads),
        bias=None if bias is None else bias(own, query, key, positions),
        mask=mask,
        is_causal=is_causal,
        scale=scale,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    return linear(parameters, "out_proj", merge_heads(heads)), weights


def sinusoidal(parameters: Parameters, x: Array, *, positions: Array) -> Array:
    """Add PE(p, 2i) = sin(p / 10000^(2i/d)), PE(p, 2i+1) = cos(p / 10000^(2i/d)) (Vaswani et al. 2017, section 3.5)."""
    dim = x.shape[-1]
    added = x.copy()
    for i in range(dim // 2):
        angle = positions / 10000 ** (2 * i / dim)
        added[..., 2 * i] += np.sin(angle)
        added[..., 2 * i + 1] += np.cos(angle)
    return added


def learned(parameters: Parameters, x: Array, *, positions: Array) -> Array:
    """Learned positions x_p + E_p (Gehring et al. 2017, section 3.1)."""
    return x + parameters["position_embedding.weight"][positions]


def rotary(
    x: Array,
    positions: Array,
    rotary_dim: int,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    frequencies: Sequence[float] | None = None,
    amplitude: float = 1.0,
) -> Array:
    """Rotary embedding (Su et al. 2021, eq. 15).

    (x_a, x_b) -> (x_a cos mθ - x_b sin mθ, x_b cos mθ + x_a sin mθ) for every pair (a, b).
    `positions` is (batch, length). Pair i is features i and i + d/2, or 2i and 2i + 1 if `interleaved`.
    """
    turned = x.copy()
    for i in range(rotary_dim // 2):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + rotary_dim // 2)
        theta = base ** (-2 * i / rotary_dim) if frequencies is None else frequencies[i]
        angle = (positions * theta)[:, None]  # batch 1 length
        turned[..., a] = amplitude * (x[..., a] * np.cos(angle) - x[..., b] * np.sin(angle))
        turned[..., b] = amplitude * (x[..., b] * np.cos(angle) + x[..., a] * np.sin(angle))
    return turned


def multi_axis_rotary(x: Array, positions: Array, sections: Sequence[int], base: float) -> Array:
    """Rotate pair i by the coordinate of its section, with θ_i of the whole head (Wang et al. 2024, section 2.1)."""
    pairs = x.shape[-1] // 2
    turned = x.copy()
    axis_of_pair = [axis for axis, size in enumerate(sections) for _ in range(size)]
    for i, axis in enumerate(axis_of_pair):
        only = rotary(x, positions[..., axis], 2 * pairs, base=base)
        turned[..., [i, i + pairs]] = only[..., [i, i + pairs]]
    return turned


def axial_rotary(x: Array, positions: Array, num_axes: int) -> Array:
    """Rotary embedding of d / axes features for each axis of positions (Heo et al. 2024, section 3.2)."""
    pairs = x.shape[-1] // 2
    each = pairs // num_axes
    turned = x.copy()
    for axis in range(num_axes):
        first = range(axis * each, (axis + 1) * each)
        share = [*first, *(pairs + i for i in first)]
        turned[..., share] = rotary(x[..., share], positions[..., axis], 2 * each)
    return turned


def yarn(head_dim: int, factor: float, length: int, base: float, fast: float, slow: float) -> list[float]:
    """YaRN frequencies θ'_i = (1 - γ) θ_i / s + γ θ_i with a ramp γ over pairs (Peng et al. 2023, eq. 19-23, code)."""

    def dimension(turns: float) -> float:
        return head_dim * math.log(length / (2 * math.pi * turns)) / (2 * math.log(base))

    low, high = math.floor(dimension(fast)), math.ceil(dimension(slow))
    thetas = []
    for i in range(head_dim // 2):
        theta = base ** (-2 * i / head_dim)
        gamma = 1 if i <= low else 0 if i >= high else (high - i) / (high - low)
        thetas.append((1 - gamma) * theta / factor + gamma * theta)
    return thetas


def llama3(head_dim: int, factor: float, length: int, base: float, low: float, high: float) -> list[float]:
    """Llama 3.1 frequencies: θ for wavelengths below L/high, θ/s above L/low, interpolated between (its code)."""
    thetas = []
    for i in range(head_dim // 2):
        theta = base ** (-2 * i / head_dim)
        wavelength = 2 * math.pi / theta
        if wavelength > length / low:
            theta = theta / factor
        elif wavelength >= length / high:
            smooth = (length / wavelength - low) / (high - low)
            theta = (1 - smooth) * theta / factor + smooth * theta
        thetas.append(theta)
    return thetas


def alibi_bias(parameters: Parameters, query: Array, key: Array, positions: Array) -> Array:
    """ALiBi -m_h (i - j) for j <= i (Press et al. 2021, section 3); 3 heads use both slopes of 2 heads and one of 4."""
    slopes = [2.0**-4, 2.0**-8, 2.0**-2]
    batch, num_heads, length, _ = query.shape
    bias = np.zeros((batch, num_heads, length, length))
    for b, h, i, j in np.ndindex(bias.shape):
        if j <= i:
            bias[b, h, i, j] = -slopes[h] * (positions[b, i] - positions[b, j])
    return bias
