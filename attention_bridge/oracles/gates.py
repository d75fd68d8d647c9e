"""Reference implementation of gated, differential and forgetting attention."""

import math
from collections.abc import Callable

import numpy as np

from attention_bridge.oracles.common import (
    Array,
    Parameters,
    dot_product_attention,
    dropout,
    linear,
    merge_heads,
    rms_norm,
    softmax,
    split_heads,
    visible,
)


def sigmoid(x: Array) -> Array:
    """Sigmoid 1 / (1 + exp(−x))."""
    return 1 / (1 + np.exp(-x))


def gated_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    num_kv_heads: int,
    eps: float = 1e-6,
    is_causal: bool = False,
    turn: Callable[[Array], Array] = lambda heads: heads,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Gated attention concat_h(head_h ⊙ σ(x W_h^gate)) W^O (Qiu et al. 2025, eq. 5).

    There is one gate per feature or one per head. Queries and keys of each head are normalised if there is a `q_norm`;
    then `turn` (a rotation) is applied to both.
    """
    query = split_heads(linear(parameters, "q_proj", x), num_heads)
    key = split_heads(linear(parameters, "k_proj", x), num_kv_heads)
    if "q_norm.weight" in parameters:
        query, key = rms_norm(parameters, "q_norm", query, eps), rms_norm(parameters, "k_norm", key, eps)
    heads, weights = dot_product_attention(
        turn(query),
        turn(key),
        split_heads(linear(parameters, "v_proj", x), num_kv_heads),
        mask=mask,
        is_causal=is_causal,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    gates = sigmoid(linear(parameters, "gate_proj", x))
    gates = np.repeat(gates, merge_heads(heads).shape[-1] // gates.shape[-1], axis=-1)
    return linear(parameters, "out_proj", merge_heads(heads) * gates), weights


def differential_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    lambda_init: float,
    eps: float = 1e-5,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Differential attention (Ye et al. 2024, eq. 1 to 3).

    (softmax(Q₁ K₁ᵀ / √d) − λ softmax(Q₂ K₂ᵀ / √d)) V, followed by a norm per head.
    """
    query = split_heads(linear(parameters, "q_proj", x), 2 * num_heads)
    key = split_heads(linear(parameters, "k_proj", x), 2 * num_heads)
    value = split_heads(linear(parameters, "v_proj", x), num_heads)
    factor = (
        np.exp(parameters["lambda_q1"] @ parameters["lambda_k1"])
        - np.exp(parameters["lambda_q2"] @ parameters["lambda_k2"])
        + lambda_init
    )
    batch, _, length, head_dim = query.shape
    dtype = np.result_type(x, *parameters.values())
    heads, weights = np.zeros(value.shape, dtype), np.zeros((batch, num_heads, length, length), dtype)
    for b in range(batch):
        for h in range(num_heads):
            for i in range(length):
                seen = visible(mask, b, h, i, length)
                first, second = (
                    softmax(key[b, m] @ query[b, m, i] / math.sqrt(head_dim), seen)
                    for m in (2 * h, 2 * h + 1)
                )
                weights[b, h, i] = first - factor * second
                keep = None if dropout_keep is None else dropout_keep[b, h, i]
                heads[b, h, i] = dropout(weights[b, h, i], keep, dropout_rate) @ value[b, h]
    heads = (1 - lambda_init) * rms_norm(parameters, "head_norm", heads, eps)
    return linear(parameters, "out_proj", merge_heads(heads)), weights


def forgetting_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    turn: Callable[[Array], Array] = lambda heads: heads,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Forgetting attention (Lin et al. 2025, eq. 4 and 5).

    softmax_{j ≤ i}(q_i·k_j / √d + Σ_{l=j+1..i} log f_l) V, f = σ(w·x + b).
    """
    query = turn(split_heads(linear(parameters, "q_proj", x), num_heads))
    key = turn(split_heads(linear(parameters, "k_proj", x), num_heads))
    value = split_heads(linear(parameters, "v_proj", x), num_heads)
    log_forget = np.log(sigmoid(linear(parameters, "forget_proj", x)))  # batch length heads
    batch, _, length, head_dim = query.shape
    dtype = np.result_type(x, *parameters.values())
    heads, weights = np.zeros(value.shape, dtype), np.zeros((batch, num_heads, length, length), dtype)
    for b in range(batch):
        for h in range(num_heads):
            for i in range(length):
                past = slice(i + 1)
                kept = np.array([log_forget[b, j + 1 : i + 1, h].sum() for j in range(i + 1)])
                scores = key[b, h, past] @ query[b, h, i] / math.sqrt(head_dim) + kept
                weights[b, h, i, past] = softmax(scores, visible(mask, b, h, i, length)[past])
                keep = None if dropout_keep is None else dropout_keep[b, h, i]
                heads[b, h, i] = dropout(weights[b, h, i], keep, dropout_rate) @ value[b, h]
    return linear(parameters, "out_proj", merge_heads(heads)), weights
