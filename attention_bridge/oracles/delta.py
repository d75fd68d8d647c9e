"""Reference implementation of the delta-rule recurrences and of state-space duality, one token at a time.

The recurrent state S is (key_dim, value_dim), and o = Sᵀ q. A masked token is zero in the convolution, leaves the
state unchanged, without update and decay, and has a zero output before the norm.
"""

import math
from collections.abc import Callable

import numpy as np

from attention_bridge.oracles.common import Array, Parameters, linear, split_heads


def sigmoid(x: Array) -> Array:
    """Sigmoid 1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    """SiLU, x / (1 + exp(-x)) (Hendrycks, Gimpel 2016)."""
    return x * sigmoid(x)


def softplus(x: Array) -> Array:
    """Softplus log(1 + exp(x))."""
    return np.log1p(np.exp(x))


def rms_norm(scale: Array, x: Array, eps: float) -> Array:
    """RMS norm γ x / √(mean x² + ε) (Zhang, Sennrich 2019)."""
    return scale * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def unit_length(x: Array) -> Array:
    """Normalise to unit length, x / √(|x|² + 10⁻⁶)."""
    return x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)


def there(x: Array, mask: Array | None) -> Array:
    """Set masked tokens of x (batch, length, features) to zero."""
    return x if mask is None else np.where(mask[:, 0, 0, :, None], x, 0.0)


def short_convolution(parameters: Parameters, x: Array) -> tuple[Array, Array]:
    """Causal convolution SiLU(Σ_i c_i x_{t-w+1+i} + b), zero-padded on the left; also returns the last w - 1 inputs."""
    weight = parameters["conv.weight"]  # features 1 width
    width = weight.shape[-1]
    batch, length, features = x.shape
    extended = np.concatenate([np.zeros((batch, width - 1, features), x.dtype), x], axis=1)
    y = np.zeros((batch, length, features), np.result_type(x, weight))
    for t in range(length):
        for i in range(width):
            y[:, t] += weight[:, 0, i] * extended[:, t + i]
    return silu(y + parameters.get("conv.bias", 0.0)), extended[:, length:]


def read_in_order(
    query: Array, key: Array, value: Array, transition: Callable[[int, int, int], Array], rate: Array
) -> tuple[Array, Array, Array]:
    """Recurrence S_t = A_t S_{t-1} + r_t k_t v_tᵀ, o_t = S_tᵀ q_t, where A_t is `transition(b, h, t)`.

    Arrays are (batch, heads, length, dim). Returns the outputs, the last state and the weights
    W_ts = r_s q_tᵀ A_t ... A_{s+1} k_s.
    """
    batch, heads, length, key_dim = key.shape
    dtype = np.result_type(query, key, value, rate, transition(0, 0, 0))
    output = np.zeros((batch, heads, length, value.shape[-1]), dtype)
    memory = np.zeros((batch, heads, key_dim, value.shape[-1]), dtype)
    weights = np.zeros((batch, heads, length, length), dtype)
    for b in range(batch):
        for h in range(heads):
            kept = np.zeros((length, key_dim), dtype)  # row s: A_t ... A_{s+1} r_s k_s
            for t in range(length):
                a = transition(b, h, t)
                written = rate[b, h, t] * key[b, h, t]
                memory[b, h] = a @ memory[b, h] + np.outer(written, value[b, h, t])
                output[b, h, t] = query[b, h, t] @ memory[b, h]
                kept = kept @ a.T
                kept[t] = written
                weights[b, h, t] = kept @ query[b, h, t]
    return output, memory, weights


def delta_layer(
    parameters: Parameters,
    x: Array,
    mask: Array | None,
    gate: Callable[[Array], Array],
    decay: Callable[[Array], Array],
    *,
    num_heads: int,
    num_value_heads: int,
    head_dim: int,
    value_dim: int,
    eps: float,
    beta_scale: float = 1.0,
) -> tuple[Array, Array, Array, Array]:
    """Layer around S_t = (I - β k kᵀ) Diag(α) S_{t-1} + β k vᵀ: projections, short convolution, norm and gate.

    `decay(x)` is log α, (batch, length, heads · (head_dim or 1)); `gate(x)` is (batch, length, heads · value_dim).
    """
    x = there(x, mask)
    features = np.concatenate([linear(parameters, f"{name}_proj", x) for name in "qkv"], axis=-1)
    features, inputs = short_convolution(parameters, features)
    features = there(features, mask)
    keys = num_heads * head_dim
    groups = np.arange(num_value_heads) // (num_value_heads // num_heads)
    query = unit_length(split_heads(features[..., :keys], num_heads))[:, groups] / math.sqrt(head_dim)
    key = unit_length(split_heads(features[..., keys : 2 * keys], num_heads))[:, groups]
    value = split_heads(features[..., 2 * keys :], num_value_heads)
    beta = there(beta_scale * sigmoid(linear(parameters, "b_proj", x)), mask).swapaxes(
        1, 2
    )  # batch heads length
    alpha = split_heads(np.exp(there(decay(x), mask)), num_value_heads)  # batch heads length (head_dim or 1)

    def transition(b: int, h: int, t: int) -> Array:
        k = key[b, h, t]
        return (np.eye(head_dim) - beta[b, h, t] * np.outer(k, k)) * alpha[b, h, t]  # column d times α_d

    heads, memory, weights = read_in_order(query, key, value, transition, beta)
    heads = rms_norm(parameters["norm.weight"], heads, eps) * split_heads(gate(x), num_value_heads)
    merged = np.concatenate(list(heads.swapaxes(0, 1)), axis=-1)
    return linear(parameters, "out_proj", merged), memory, inputs, weights


def delta_net(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    head_dim: int,
    value_dim: int,
    eps: float,
) -> tuple[Array, Array, Array, Array]:
    """DeltaNet (Yang et al. 2024, section 2.2).

    S_t = S_{t-1} (I - β k kᵀ) + β v kᵀ in the paper, whose S is transposed.
    """
    return delta_layer(
        parameters,
        x,
        mask,
        lambda x: np.ones((*x.shape[:2], num_heads * value_dim)),
        lambda x: np.zeros((*x.shape[:2], num_heads)),
        num_heads=num_heads,
        num_value_heads=num_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        eps=eps,
    )


def gated_delta_net(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    num_value_heads: int,
    head_dim: int,
    value_dim: int,
    eps: float,
    beta_scale: float = 1.0,
) -> tuple[Array, Array, Array, Array]:
    """Gated DeltaNet (Yang, Kautz, Hatamizadeh 2024, eq. 10).

    S_t = S_{t-1} α (I - β k kᵀ) + β v kᵀ in the paper, whose S is transposed.
    """
    return delta_layer(
        parameters,
        x,
        mask,
        lambda x: silu(linear(parameters, "z_proj", x)),
        lambda x: (
            -np.exp(parameters["A_log"]) * softplus(linear(parameters, "a_proj", x) + parameters["dt_bias"])
        ),
        num_heads=num_heads,
        num_value_heads=num_value_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        eps=eps,
        beta_scale=beta_scale,
    )


def kimi_delta_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    head_dim: int,
    value_dim: int,
    eps: float,
) -> tuple[Array, Array, Array, Array]:
    """Kimi delta attention, S_t = (I - β k kᵀ) Diag(α) S_{t-1} + β k vᵀ, one α per channel (Kimi Team 2025, eq. 1)."""

    def low_rank(name: str, x: Array) -> Array:
        return linear(parameters, f"{name}_b_proj", linear(parameters, f"{name}_a_proj", x))

    def decay(x: Array) -> Array:
        rates = np.repeat(np.exp(parameters["A_log"]), head_dim)  # the same for all channels of a head
        return -rates * softplus(low_rank("f", x) + parameters["dt_bias"])

    return delta_layer(
        parameters,
        x,
        mask,
        lambda x: sigmoid(low_rank("g", x)),
        decay,
        num_heads=num_heads,
        num_value_heads=num_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        eps=eps,
    )


def mamba2(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    head_dim: int,
    state_dim: int,
    num_groups: int,
    eps: float,
    min_step: float = 0.0,
    norm_order: str | None = "after_gate",
    part_scales: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0),
) -> tuple[Array, Array, Array, Array]:
    """Mamba-2, h_t = exp(Δ A) h_{t-1} + Δ B x, y_t = C h_t + D x, h (state_dim, head_dim) (Dao, Gu 2024, section 7)."""
    inner, group = num_heads * head_dim, num_groups * state_dim
    projected = there(linear(parameters, "in_proj", there(x, mask)), mask)
    factors = np.repeat(part_scales, [inner, inner, group, group, num_heads])
    z, features, dt = np.split(projected * factors, [inner, 2 * inner + 2 * group], axis=-1)
    features, inputs = short_convolution(parameters, features)
    features = there(features, mask)
    of_head = np.arange(num_heads) // (num_heads // num_groups)
    value = split_heads(features[..., :inner], num_heads)  # x
    key = split_heads(features[..., inner : inner + group], num_groups)[:, of_head]  # B
    query = split_heads(features[..., inner + group :], num_groups)[:, of_head]  # C
    step = softplus(dt + parameters["dt_bias"])  # Δ, batch length heads
    step = there(np.where(step.real < min_step, min_step, step), mask).swapaxes(1, 2)  # batch heads length
    rate = -np.exp(parameters["A_log"])

    def transition(b: int, h: int, t: int) -> Array:
        return np.exp(step[b, h, t] * rate[h]) * np.eye(state_dim)

    heads, memory, weights = read_in_order(query, key, value, transition, step)
    skip = parameters["D"][:, None, None]
    heads, weights = heads + skip * value, weights + skip * np.eye(x.shape[1])
    merged = np.concatenate(list(heads.swapaxes(0, 1)), axis=-1)

    def norm(features: Array) -> Array:
        grouped = features.reshape(*features.shape[:2], num_groups, -1)
        return rms_norm(np.ones(1), grouped, eps).reshape(features.shape) * parameters["norm_scale"]

    if norm_order == "before_gate":
        merged = norm(merged) * silu(z)
    elif norm_order == "after_gate":
        merged = norm(merged * silu(z))
    else:
        merged = merged * silu(z)
    return linear(parameters, "out_proj", merged), memory, inputs, weights


def gated_short_convolution(
    parameters: Parameters, x: Array, mask: Array | None = None
) -> tuple[Array, Array, Array]:
    """Gated short convolution, y_t = C_t Σ_i c_i (B X)_{t-w+1+i}, one head per feature (Liquid AI 2025, LFM2)."""
    weight = parameters["conv.weight"]  # features 1 width
    bias = parameters.get("conv.bias", np.zeros(len(weight)))
    width, (batch, length, features) = weight.shape[-1], x.shape
    key, query, value = np.split(linear(parameters, "in_proj", there(x, mask)), 3, axis=-1)
    key = there(key, mask)
    weights = np.zeros((batch, features, length, length), np.result_type(query, key, weight))
    for t in range(length):
        for s in range(max(0, t - width + 1), t + 1):
            weights[:, :, t, s] = query[:, t] * weight[:, 0, width - 1 - (t - s)] * key[:, s]
    mixed = np.einsum("bfts,bsf->btf", weights, value) + query * bias
    inputs = np.concatenate([np.zeros((batch, width - 1, features), x.dtype), key * value], axis=1)
    return linear(parameters, "out_proj", mixed), inputs[:, length:], weights
