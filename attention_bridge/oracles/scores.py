"""Reference implementation of alternatives to the softmax of scaled dot products."""

import math
from collections.abc import Callable
from typing import Any

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


def softcap_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    num_kv_heads: int,
    softcap: float,
    scale: float | None = None,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Softcap attention softmax(c tanh(s q·k / c)) V, masked after the tanh (Gemma 2, 2024, section 2)."""
    heads, weights = dot_product_attention(
        split_heads(linear(parameters, "q_proj", x), num_heads),
        split_heads(linear(parameters, "k_proj", x), num_kv_heads),
        split_heads(linear(parameters, "v_proj", x), num_kv_heads),
        mask=mask,
        scale=scale,
        softcap=softcap,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    return linear(parameters, "out_proj", merge_heads(heads)), weights


def qk_norm_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    num_kv_heads: int,
    full_width: bool,
    eps: float = 1e-6,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """QK-norm attention softmax(q̂·k̂ / √d) V, q̂ = RMSNorm(q).

    The norm is over each head (Qwen 3), or over all heads at once if `full_width` (OLMo 2).
    """
    query, key = linear(parameters, "q_proj", x), linear(parameters, "k_proj", x)
    if full_width:
        query = rms_norm(parameters, "q_norm", query, eps)
        key = rms_norm(parameters, "k_norm", key, eps)
    query, key = split_heads(query, num_heads), split_heads(key, num_kv_heads)
    if not full_width:
        query = rms_norm(parameters, "q_norm", query, eps)
        key = rms_norm(parameters, "k_norm", key, eps)
    heads, weights = dot_product_attention(
        query,
        key,
        split_heads(linear(parameters, "v_proj", x), num_kv_heads),
        mask=mask,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    return linear(parameters, "out_proj", merge_heads(heads)), weights


def weighted_attention(
    weigh: Callable[[int, int, Array, Array, Array], Array],
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention o_i = Σ_j α_ij v_j for each head, with any weights α.

    `weigh` maps the batch index, the head index, one query (head_dim), all keys (key, head_dim) and their visibility
    (key) to α (key).
    """
    query = split_heads(linear(parameters, "q_proj", x), num_heads)
    key = split_heads(linear(parameters, "k_proj", x), num_heads)
    value = split_heads(linear(parameters, "v_proj", x), num_heads)
    batch, _, length, _ = query.shape
    dtype = np.result_type(x, *parameters.values())
    heads, weights = np.zeros(value.shape, dtype), np.zeros((batch, num_heads, length, length), dtype)
    for b in range(batch):
        for h in range(num_heads):
            for i in range(length):
                seen = visible(mask, b, h, i, length)
                weights[b, h, i] = weigh(b, h, query[b, h, i], key[b, h], seen)
                keep = None if dropout_keep is None else dropout_keep[b, h, i]
                heads[b, h, i] = dropout(weights[b, h, i], keep, dropout_rate) @ value[b, h]
    return linear(parameters, "out_proj", merge_heads(heads)), weights


def cosine_attention(
    parameters: Parameters, x: Array, mask: Array | None = None, *, max_scale: float = 100.0, **options: Any
) -> tuple[Array, Array]:
    """Cosine attention softmax(min(exp t_h, τ_max) q·k / |q||k|) V (Liu et al. 2022, section 3.2)."""

    def weigh(b: int, h: int, query: Array, key: Array, seen: Array) -> Array:
        exponent = parameters["logit_scale"][h]
        factor = np.exp(exponent) if exponent.real < math.log(max_scale) else max_scale
        lengths = np.sqrt(query @ query) * np.sqrt((key * key).sum(axis=-1))
        return softmax(factor * (key @ query) / lengths, seen)

    return weighted_attention(weigh, parameters, x, mask, **options)


def sigmoid_attention(
    parameters: Parameters, x: Array, mask: Array | None = None, *, shift: float | None = None, **options: Any
) -> tuple[Array, Array]:
    """Sigmoid attention σ(q·k / √d + b) V (Ramapuram et al. 2024, eq. 3).

    b is −log n, where n is the number of keys that some query attends to.
    """

    def weigh(b: int, h: int, query: Array, key: Array, seen: Array) -> Array:
        rows = [visible(mask, b, h, i, len(key)) for i in range(len(key))]
        count = max(1, np.any(rows, axis=0).sum())
        added = -math.log(count) if shift is None else shift
        scores = key @ query / math.sqrt(query.size) + added
        return np.where(seen, 1 / (1 + np.exp(-scores)), 0.0)

    return weighted_attention(weigh, parameters, x, mask, **options)


def sparsemax(scores: Array) -> Array:
    """Sparsemax p = [z − τ]₊ with τ such that Σ p = 1 (Martins, Astudillo 2016, proposition 1).

    The support is the k largest scores, for the k at which τ separates them from the others.
    """
    order = np.argsort(-scores.real)
    for k in range(1, len(scores) + 1):
        chosen = order[:k]
        threshold = (scores[chosen].sum() - 1) / k
        if k == len(scores) or scores[order[k]].real <= threshold.real:
            break
    weights = np.zeros_like(scores)
    weights[chosen] = scores[chosen] - threshold
    return weights


def entmax15(scores: Array) -> Array:
    """1.5-entmax p = [z / 2 − τ]₊² with τ such that Σ p = 1 (Peters, Niculae, Martins 2019, eq. 13).

    On a support of k scores, τ is the smaller root of Σ (z / 2 − τ)² = k τ² − τ Σ z + Σ z² / 4 = 1.
    """
    order = np.argsort(-scores.real)
    for k in range(1, len(scores) + 1):
        chosen = order[:k]
        total, squares = scores[chosen].sum(), (scores[chosen] * scores[chosen]).sum() / 4
        threshold = (total - np.sqrt(total * total - 4 * k * (squares - 1))) / (2 * k)
        if k == len(scores) or scores[order[k]].real / 2 <= threshold.real:
            break
    weights = np.zeros_like(scores)
    weights[chosen] = (scores[chosen] / 2 - threshold) ** 2
    return weights


def sparse_attention(
    transform: Callable[[Array], Array],
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    **options: Any,
) -> tuple[Array, Array]:
    """Attention transform(q·k / √d) V over the visible keys; fully masked rows have weights of zero."""

    def weigh(b: int, h: int, query: Array, key: Array, seen: Array) -> Array:
        scores = key @ query / math.sqrt(query.size)
        weights = np.zeros_like(scores)
        if seen.any():
            weights[seen] = transform(scores[seen])
        return weights

    return weighted_attention(weigh, parameters, x, mask, **options)


def talking_heads_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Talking-heads attention (Shazeer et al. 2020, eq. 6 to 10).

    P^post softmax(P^pre (Q Kᵀ / √d)) V, where P^pre and P^post mix heads.
    """
    query = split_heads(linear(parameters, "q_proj", x), num_heads)
    key = split_heads(linear(parameters, "k_proj", x), num_heads)
    value = split_heads(linear(parameters, "v_proj", x), num_heads)
    batch, _, length, head_dim = query.shape
    dtype = np.result_type(x, *parameters.values())
    heads, weights = np.zeros(value.shape, dtype), np.zeros((batch, num_heads, length, length), dtype)
    for b in range(batch):
        for i in range(length):
            scores = [key[b, h] @ query[b, h, i] / math.sqrt(head_dim) for h in range(num_heads)]
            seen = visible(mask, b, 0, i, length)
            talked = [
                softmax(sum(parameters["pre_map"][g, h] * scores[h] for h in range(num_heads)), seen)
                for g in range(num_heads)
            ]
            for h in range(num_heads):
                weights[b, h, i] = sum(parameters["post_map"][h, g] * talked[g] for g in range(num_heads))
                keep = None if dropout_keep is None else dropout_keep[b, h, i]
                heads[b, h, i] = dropout(weights[b, h, i], keep, dropout_rate) @ value[b, h]
    return linear(parameters, "out_proj", merge_heads(heads)), weights
