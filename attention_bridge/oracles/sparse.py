"""Reference implementation of sparse attention that chooses keys by content, one query at a time.

A choice compares real parts and has no gradient; ties go to the lowest index.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from attention_bridge.oracles.common import (
    Array,
    Parameters,
    dropout,
    layer_norm,
    linear,
    merge_heads,
    relu,
    rms_norm,
    scope,
    softmax,
    split_heads,
    visible,
)
from attention_bridge.oracles.heads import multi_head_latent_attention
from attention_bridge.oracles.positions import rotary


def largest(scores: Array, k: int, candidates: Iterable[Any]) -> list[int]:
    """The k candidates with the largest scores; ties go to the lowest index."""
    return sorted(candidates, key=lambda j: (-scores[j].real, j))[:k]


def indicator(chosen: Sequence[int], length: int) -> Array:
    """Boolean array of the given length, True at the chosen positions."""
    found = np.zeros(length, dtype=bool)
    found[list(chosen)] = True
    return found


def up_to(i: int, length: int) -> Array:
    """Boolean array, True at positions j ≤ i."""
    return np.arange(length) <= i


def attend_to_chosen(
    query: Array,
    key: Array,
    value: Array,
    choose: Callable[[int, int, int, Array], Array],
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention to the keys that `choose(b, h, i, scores)` returns as a boolean array.

    Grouped heads work as in `dot_product_attention`; scores are q·k / √d.
    """
    batch, num_heads, query_len, head_dim = query.shape
    num_kv_heads, key_len, value_dim = value.shape[1:]
    dtype = np.result_type(query, key, value)
    output = np.zeros((batch, num_heads, query_len, value_dim), dtype)
    weights = np.zeros((batch, num_heads, query_len, key_len), dtype)
    for b in range(batch):
        for h in range(num_heads):
            g = h // (num_heads // num_kv_heads)
            for i in range(query_len):
                scores = key[b, g] @ query[b, h, i] / math.sqrt(head_dim)
                weights[b, h, i] = softmax(scores, choose(b, h, i, scores))
                keep = None if dropout_keep is None else dropout_keep[b, h, i]
                output[b, h, i] = dropout(weights[b, h, i], keep, dropout_rate) @ value[b, g]
    return output, weights


def projected(parameters: Parameters, x: Array, num_heads: int, num_kv_heads: int) -> tuple[Array, ...]:
    """Project x to heads of queries, keys and values."""
    heads = {"q_proj": num_heads, "k_proj": num_kv_heads, "v_proj": num_kv_heads}
    return tuple(split_heads(linear(parameters, name, x), count) for name, count in heads.items())


def top_k_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    top_k: int,
    is_causal: bool = False,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Top-k attention (Zhao et al. 2019, eq. 4).

    A = softmax(M), M_ij = P_ij if P_ij is among the k largest scores of row i, else −∞.
    """
    length = x.shape[1]

    def choose(b: int, h: int, i: int, scores: Array) -> Array:
        seen = visible(mask, b, h, i, length)
        if is_causal:
            seen = seen & up_to(i, length)
        return indicator(largest(scores, top_k, list(np.flatnonzero(seen))), length)

    query, key, value = projected(parameters, x, num_heads, num_heads)
    heads, weights = attend_to_chosen(query, key, value, choose, dropout_keep, dropout_rate)
    return linear(parameters, "out_proj", merge_heads(heads)), weights


def index_scores(
    parameters: Parameters,
    x: Array,
    asked: Array | None = None,
    *,
    num_heads: int,
    turn: Callable[[Array], Array] = lambda heads: heads,
) -> Array:
    """Indexer scores I_ts = Σ_h w_th ReLU(q_th·k_s) (DeepSeek-AI 2025, DeepSeek-V3.2, eq. 1).

    The published model scales q·k by 1/√d and w by 1/√H, and normalises the key, which all heads share. Queries are
    projected from `asked`, or from x if it is None; `turn` is applied to queries and key.
    """
    query = turn(split_heads(linear(parameters, "q_proj", x if asked is None else asked), num_heads))
    key = turn(layer_norm(parameters, "k_norm", linear(parameters, "k_proj", x), eps=1e-6)[:, None])[:, 0]
    weight = linear(parameters, "weight_proj", x) / math.sqrt(num_heads)
    batch, length, head_dim = key.shape
    scores = np.zeros((batch, length, length), np.result_type(query, key, weight))
    for b in range(batch):
        for t in range(length):
            scores[b, t] = weight[b, t] @ relu(query[b, :, t] @ key[b].T / math.sqrt(head_dim))  # sums over h
    return scores


def index_choice(scores: Array, mask: Array | None, num_heads: int, top_k: int) -> Array:
    """Mask (batch, 1, query, key) of the keys with the k largest scores among s ≤ t that are visible to a head."""
    batch, length, _ = scores.shape
    chosen = np.zeros((batch, 1, length, length), dtype=bool)
    for b in range(batch):
        for t in range(length):
            seen = np.any([visible(mask, b, h, t, length) for h in range(num_heads)], axis=0)
            candidates = list(np.flatnonzero(seen & up_to(t, length)))
            chosen[b, 0, t] = indicator(largest(scores[b, t], top_k, candidates), length)
    return chosen


def deepseek_sparse_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    index_heads: int,
    top_k: int,
    positions: Array,
    index_rotary_dim: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
    **latent: Any,
) -> tuple[Array, Array]:
    """Sparse latent attention u_t = Attn(h_t, {c_s : s in T_t}) (DeepSeek-AI 2025, DeepSeek-V3.2, eq. 2)."""
    inner = scope(parameters, "attention")
    asked = rms_norm(inner, "q_a_norm", linear(inner, "q_a_proj", x), eps=1e-6)
    turn = partial(rotary, positions=positions, rotary_dim=index_rotary_dim)
    scores = index_scores(scope(parameters, "indexer"), x, asked, num_heads=index_heads, turn=turn)
    chosen = index_choice(scores, mask, num_heads, top_k)
    if mask is not None:
        chosen = chosen & (mask[:, None] if mask.ndim == 3 else mask)
    output, _, weights = multi_head_latent_attention(
        inner,
        x,
        chosen,
        num_heads=num_heads,
        positions=positions,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
        **latent,
    )
    return output, weights


def mixture_of_block_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    block_size: int,
    num_blocks: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Mixture of block attention (Lu et al. 2025, eq. 2 to 6).

    MoBA(q, K, V) = softmax(q K[I]ᵀ) V[I], where I is the blocks with the largest q·mean(K[I_i]).
    I contains the query's own block, which is causal, and no later block. Means are over visible keys.
    """
    length = x.shape[1]
    query, key, value = projected(parameters, x, num_heads, num_heads)

    def choose(b: int, h: int, i: int, scores: Array) -> Array:
        seen = visible(mask, b, h, i, length) & up_to(i, length)
        own = i // block_size
        gates = np.zeros(own + 1, scores.dtype)
        candidates = []
        for block in range(own):
            members = [j for j in range(block * block_size, (block + 1) * block_size) if seen[j]]
            if members:
                gates[block] = key[b, h, members].mean(axis=0) @ query[b, h, i]
                candidates.append(block)
        own_seen = int(seen[own * block_size :].any())
        chosen = [own] * own_seen + largest(gates, num_blocks - own_seen, candidates)
        return seen & np.isin(np.arange(length) // block_size, chosen)

    heads, weights = attend_to_chosen(query, key, value, choose, dropout_keep, dropout_rate)
    return linear(parameters, "out_proj", merge_heads(heads)), weights


def lsh_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    chunk_length: int,
    is_causal: bool = False,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """LSH attention of the Reformer (Kitaev et al. 2020).

    o_i = Σ_r exp(z(i, P_i^r) − z(i, P_i)) o_i^r, where P_i^r is the chunk of i and the one before it in round r.
    h(x) = argmax([xR; −xR]) for each round (section 2). s_i is the rank of i by (h(q_i), i). log N_ij is subtracted
    from the score of a key that occurs in N_ij rounds (appendix A). Keys are q_j √d / ‖q_j‖, and scores q·k / √d.
    Masked positions have a separate bucket; position i attends to itself only if no other key is visible. Buffer:
    `rotations`.
    """
    rotations = parameters["rotations"].real
    num_rounds = rotations.shape[2]
    query = split_heads(linear(parameters, "qk_proj", x), num_heads)
    value = split_heads(linear(parameters, "v_proj", x), num_heads)
    key = query / np.sqrt((query * query).mean(axis=-1, keepdims=True) + 1e-6)
    batch, _, length, head_dim = query.shape
    dtype = np.result_type(query, value)
    output, weights = np.zeros(query.shape, dtype), np.zeros((batch, num_heads, length, length), dtype)
    for b in range(batch):
        shown = visible(mask, b, 0, 0, length)
        for h in range(num_heads):
            chunk = np.zeros((num_rounds, length), dtype=int)
            for r in range(num_rounds):
                rotated = query[b, h].real @ rotations[h, :, r]
                bucket = np.argmax(np.concatenate([rotated, -rotated], axis=-1), axis=-1)
                bucket = np.where(shown, bucket, 2 * rotated.shape[-1])
                for rank, i in enumerate(np.argsort(bucket, kind="stable")):
                    chunk[r, i] = rank // chunk_length
            for i in range(length):
                met = (chunk == chunk[:, i : i + 1]) | (chunk == chunk[:, i : i + 1] - 1)  # rounds, keys
                met = met & shown & (up_to(i, length) if is_causal else True)
                others = met & (np.arange(length) != i)
                met = others if others.any() else met
                repeats = met.sum(axis=0)
                scores = key[b, h] @ query[b, h, i] / math.sqrt(head_dim) - np.log(np.maximum(repeats, 1))
                # exp(z^r - z) o^r = exp(z^r) / (sum of all exp(z^r)) times the softmax of round r.
                shift = scores.real.max()
                normalisers = [np.exp(scores[met[r]] - shift).sum() for r in range(num_rounds)]
                for r in range(num_rounds):
                    if met[r].any():
                        weights[b, h, i] += normalisers[r] / sum(normalisers) * softmax(scores, met[r])
                keep = None if dropout_keep is None else dropout_keep[b, h, i]
                output[b, h, i] = dropout(weights[b, h, i], keep, dropout_rate) @ value[b, h]
    return linear(parameters, "out_proj", merge_heads(output)), weights
