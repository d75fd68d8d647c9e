"""Reference implementation of linear attention and of recurrences with decay, by token or by pair of tokens."""

import numpy as np

from attention_bridge.oracles.common import Array, Parameters, linear, merge_heads, split_heads, visible

EMPTY = -1e30  # exponent of an empty Performer state


def silu(x: Array) -> Array:
    """SiLU, x / (1 + exp(−x))."""
    return x / (1 + np.exp(-x))


def kernel_sums(
    query: Array, key: Array, value: Array, seen: Array, is_causal: bool, eps: float
) -> tuple[Array, Array]:
    """Kernel attention of one head (Katharopoulos et al. 2020, eq. 4 and 8).

    o_i = Σ_j φ(q_i)·φ(k_j) v_j / (Σ_j φ(q_i)·φ(k_j) + ε) over visible j; 0 in fully masked rows. `query` and `key` are
    φ(q) and φ(k). Returns o and the weights.
    """
    length = len(query)
    weights = np.zeros((length, length), np.result_type(query, key))
    for i in range(length):
        there = seen & (np.arange(length) <= i) if is_causal else seen
        if there.any():
            products = np.where(there, key @ query[i], 0.0)
            weights[i] = products / (products.sum() + eps)
    return weights @ value, weights


def linear_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    is_causal: bool = True,
    eps: float = 1e-6,
) -> tuple[Array | None, ...]:
    """Linear attention with the kernel φ(q)·φ(k), φ(x) = elu(x) + 1 (Katharopoulos et al. 2020, eq. 7, 10, 11).

    Returns the output, if causal the state Σ φ(k) vᵀ and Σ φ(k), and the weights.
    """
    query, key, value = (split_heads(linear(parameters, f"{name}_proj", x), num_heads) for name in "qkv")
    query, key = (np.where(y.real > 0, y + 1, np.exp(np.where(y.real > 0, 0, y))) for y in (query, key))
    batch, _, length, head_dim = query.shape
    dtype = np.result_type(query, key, value)
    heads, weights = np.zeros(value.shape, dtype), np.zeros((batch, num_heads, length, length), dtype)
    memory = np.zeros((batch, num_heads, head_dim, head_dim), dtype)
    normaliser = np.zeros((batch, num_heads, head_dim), dtype)
    for b in range(batch):
        seen = visible(mask, b, 0, 0, length)
        for h in range(num_heads):
            heads[b, h], weights[b, h] = kernel_sums(
                query[b, h], key[b, h], value[b, h], seen, is_causal, eps
            )
            memory[b, h] = key[b, h, seen].T @ value[b, h, seen]
            normaliser[b, h] = key[b, h, seen].sum(axis=0)
    output = linear(parameters, "out_proj", merge_heads(heads))
    return (output, memory, normaliser, weights) if is_causal else (output, weights)


def performer(
    parameters: Parameters, x: Array, mask: Array | None = None, *, num_heads: int, is_causal: bool = True
) -> tuple[Array | None, ...]:
    """Performer attention with the kernel φ(q)·φ(k) (Choromanski et al. 2020, eq. 4, lemma 1).

    φ(x) = exp(ωᵀx̂ − |x̂|²/2) / √m, x̂ = x / d^¼.
    Returns the output, if causal the state, and the weights. The state, without the factor √m, is Σ φ(k) vᵀ and
    Σ φ(k), both divided by the largest feature, and the logarithm of that feature.
    """
    query, key, value = (split_heads(linear(parameters, f"{name}_proj", x), num_heads) for name in "qkv")
    features = parameters["features"]
    batch, _, length, head_dim = query.shape
    dtype = np.result_type(query, key, value, features)
    heads, weights = np.zeros(value.shape, dtype), np.zeros((batch, num_heads, length, length), dtype)
    memory = np.zeros((batch, num_heads, len(features), head_dim), dtype)
    normaliser = np.zeros((batch, num_heads, len(features)), dtype)
    exponent = np.full((batch, num_heads), EMPTY, dtype)

    def log_features(y: Array) -> Array:
        y = y / head_dim**0.25
        return y @ features.T - (y * y).sum(axis=-1)[:, None] / 2

    for b in range(batch):
        seen = visible(mask, b, 0, 0, length)
        for h in range(num_heads):
            logs = log_features(key[b, h])
            phi_query, phi_key = (np.exp(y) / len(features) ** 0.5 for y in (log_features(query[b, h]), logs))
            heads[b, h], weights[b, h] = kernel_sums(
                phi_query, phi_key, value[b, h], seen, is_causal, eps=0.0
            )
            if seen.any():
                largest = logs[seen].ravel()
                exponent[b, h] = largest[largest.real.argmax()]
                over = np.exp(logs[seen] - exponent[b, h])
                memory[b, h] = over.T @ value[b, h, seen]
                normaliser[b, h] = over.sum(axis=0)
    output = linear(parameters, "out_proj", merge_heads(heads))
    return (output, memory, normaliser, exponent, weights) if is_causal else (output, weights)


def fading_memory(
    query: Array, key: Array, value: Array, seen: Array, fade: Array
) -> tuple[Array, Array, Array]:
    """Recurrence S_t = A_t S_{t−1} + k_t v_tᵀ, o_t = S_tᵀ q_t of one head.

    Masked tokens leave the state unchanged. `fade` holds A_t (length, d, d). Returns o, S after the last token, and the
    weights (A_t ⋯ A_{s+1} k_s)·q_t.
    """
    length, dim = query.shape
    dtype = np.result_type(query, key, value, fade)
    written = np.zeros((length, dim), dtype)  # row s: decayed k_s
    weights = np.zeros((length, length), dtype)
    for t in range(length):
        if seen[t]:
            written = written @ fade[t].T
            written[t] = key[t]
        weights[t] = written @ query[t]
    return weights @ value, written.T @ value, weights


def retention(
    parameters: Parameters, x: Array, mask: Array | None = None, *, num_heads: int, eps: float = 1e-6
) -> tuple[Array, Array, Array]:
    """Multi-scale retention (Sun et al. 2023, eq. 3, 6, 8).

    S_n = γ_h e^{−iθ} S_{n−1} + k_n v_nᵀ, followed by an RMS norm per head and a gate.
    Features 2i and 2i + 1 are the real and imaginary parts of complex number i, θ_i = 10000^(−i / (d/2 − 1)).
    Returns the output, S, and the weights.
    """
    query, key, value = (split_heads(linear(parameters, f"{name}_proj", x), num_heads) for name in "qkv")
    batch, _, length, head_dim = query.shape
    back = np.zeros((head_dim, head_dim))  # rotates every pair by −θ
    for i in range(head_dim // 2):
        theta = 10000.0 ** (-i / max(head_dim // 2 - 1, 1))
        cosine, sine = np.cos(theta), np.sin(theta)
        back[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[cosine, sine], [-sine, cosine]]
    dtype = np.result_type(query, key, value)
    heads, weights = np.zeros(value.shape, dtype), np.zeros((batch, num_heads, length, length), dtype)
    memory = np.zeros((batch, num_heads, head_dim, value.shape[-1]), dtype)
    for b in range(batch):
        seen = visible(mask, b, 0, 0, length)
        for h in range(num_heads):
            fade = np.broadcast_to((1 - 2.0 ** (-5 - h)) * back, (length, head_dim, head_dim))
            heads[b, h], memory[b, h], weights[b, h] = fading_memory(
                query[b, h] / head_dim**0.5, key[b, h], value[b, h], seen, fade
            )
    normed = heads / np.sqrt((heads * heads).mean(axis=-1, keepdims=True) + eps)
    gated = silu(linear(parameters, "gate_proj", x)) * merge_heads(normed)
    return linear(parameters, "out_proj", gated), memory, weights


def gated_linear_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    temperature: float = 16.0,
    eps: float = 1e-5,
) -> tuple[Array, Array, Array]:
    """Gated linear attention (Yang et al. 2023, section 4.4).

    S_t = diag(α_t) S_{t−1} + k_t v_tᵀ, α_t = σ(x_t W₁ W₂ + b)^(1/τ), followed by a norm and a gate.
    Returns the output, S, and the weights.
    """
    query, key, value = (split_heads(linear(parameters, f"{name}_proj", x), num_heads) for name in "qkv")
    gate = split_heads(
        linear(parameters, "decay_up_proj", linear(parameters, "decay_down_proj", x)), num_heads
    )
    decay = (1 / (1 + np.exp(-gate))) ** (1 / temperature)
    batch, _, length, head_dim = query.shape
    dtype = np.result_type(query, key, value, decay)
    heads, weights = np.zeros(value.shape, dtype), np.zeros((batch, num_heads, length, length), dtype)
    memory = np.zeros((batch, num_heads, head_dim, value.shape[-1]), dtype)
    for b in range(batch):
        seen = visible(mask, b, 0, 0, length)
        for h in range(num_heads):
            fade = decay[b, h][:, :, None] * np.eye(head_dim)
            heads[b, h], memory[b, h], weights[b, h] = fading_memory(
                query[b, h] / head_dim**0.5, key[b, h], value[b, h], seen, fade
            )
    normed = heads / np.sqrt((heads * heads).mean(axis=-1, keepdims=True) + eps)
    gated = silu(linear(parameters, "gate_proj", x)) * merge_heads(parameters["norm.weight"] * normed)
    return linear(parameters, "out_proj", gated), memory, weights
