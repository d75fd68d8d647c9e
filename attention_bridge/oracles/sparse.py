"""Keys chosen by what they hold: each choice as the paper makes it, one query at a time.

A choice compares real parts and has no gradient; of equal scores the first is taken.
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
    """The k candidates of largest score, the first of equals."""
    return sorted(candidates, key=lambda j: (-scores[j].real, j))[:k]


def indicator(chosen: Sequence[int], length: int) -> Array:
    """True at the positions chosen."""
    found = np.zeros(length, dtype=bool)
    found[list(chosen)] = True
    return found


def up_to(i: int, length: int) -> Array:
    """{j : j ≤ i}."""
    return np.arange(length) <= i


def attend_to_chosen(
    query: Array,
    key: Array,
    value: Array,
    choose: Callable[[int, int, int, Array], Array],
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Softmax over the keys that `choose(b, h, i, scores)` says, then the mean of their values.

    Heads as in `dot_product_attention`; scores are q·k / √d.
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
    """Heads of queries, keys and values."""
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
    """M(P, k)_ij = P_ij if P_ij is among the k largest of row i, else −∞; A = softmax(M) (Zhao et al. 2019, eq. 4)."""
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
    """I_ts = Σ_h w_th ReLU(q_th·k_s) (DeepSeek-AI 2025, DeepSeek-V3.2, eq. 1).

    The published model scales q·k by 1/√d and w by 1/√H, and normalises the one key that all heads share.
    `asked` is what queries are made from, `turn` is applied to the heads of queries and to the key.
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
    """T_t = {s : I_ts in Top-k(I_t,:)}, of those that come no later and that a head may see: (batch, 1, query, key)."""
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
    """u_t = Attn(h_t, {c_s : s in T_t}), with latent attention (DeepSeek-AI 2025, DeepSeek-V3.2, eq. 2)."""
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


def compress(parameters: Parameters, run: Array) -> Array:
    """φ(k_1, ..., k_l): each plus the vector of its place, then W₂ ReLU(W₁ [k_1; ...; k_l] + b₁) + b₂."""
    placed = run + parameters["places"]
    return linear(parameters, "down_proj", relu(linear(parameters, "up_proj", placed.reshape(-1))))


def native_sparse_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    num_kv_heads: int,
    compressed_size: int,
    stride: int,
    selected_size: int,
    num_selected: int,
    window: int,
    turn: Callable[[Array], Array] = lambda heads: heads,
) -> tuple[Array, Array]:
    """o_t = Σ_c g_t^c Attn(q_t, K_t^c, V_t^c), c in cmp, slc, win (Yuan et al. 2025, equations 5 to 12).

    Without parameters `key_compression` and `value_compression` φ is the mean. The weights are the gated sum of
    those of the three branches, that of a compressed key in equal parts for each key of its run.
    """
    batch, length, _ = x.shape
    share = num_heads // num_kv_heads
    query = turn(split_heads(linear(parameters, "q_proj", x), num_heads))
    scale = 1 / math.sqrt(query.shape[-1])
    gates = 1 / (1 + np.exp(-linear(parameters, "gate_proj", x)))
    keys, values = (
        {
            branch: split_heads(linear(parameters, f"{branch}_{name}_proj", x), num_kv_heads)
            for branch in ("compressed", "selected", "window")
        }
        for name in ("k", "v")
    )
    keys = {branch: turn(key) for branch, key in keys.items()}

    starts = range(0, length - compressed_size + 1, stride)
    members = [range(start, start + compressed_size) for start in starts]
    short_keys, short_values = (
        _compressed(parameters, name, heads["compressed"], starts, compressed_size)
        for name, heads in (("key_compression", keys), ("value_compression", values))
    )
    block_of = np.arange(length) // selected_size
    blocks = range(block_of[-1] + 1)
    overlap = np.zeros((len(starts), len(blocks)))  # equation 9: one for each stride of a run in a block
    spread = np.zeros((len(starts), length))
    for i, run in enumerate(members):
        spread[i, run] = 1 / compressed_size
        for unit in run[::stride]:
            overlap[i, block_of[unit]] += 1

    dtype = np.result_type(x, *parameters.values())
    heads = np.zeros((batch, num_heads, length, query.shape[-1]), dtype)
    weights = np.zeros((batch, num_heads, length, length), dtype)
    for b in range(batch):
        for g in range(num_kv_heads):
            for t in range(length):
                group = range(g * share, (g + 1) * share)
                seen = [visible(mask, b, h, t, length) & up_to(t, length) for h in group]
                importance = np.zeros(len(blocks), dtype)  # of each block, for the group
                for h, of_head in zip(group, seen, strict=True):
                    past = np.array([of_head[run].all() for run in members], dtype=bool)
                    coarse = softmax(scale * (short_keys[b, g] @ query[b, h, t]), past)
                    heads[b, h, t] += gates[b, t, h] * (coarse @ short_values[b, g])
                    weights[b, h, t] += gates[b, t, h] * (coarse @ spread)
                    importance += coarse @ overlap

                own = block_of[t]
                candidates = sorted(set(block_of[np.logical_or.reduce(seen)]))
                always = [j for j in candidates if j in (0, own - 1, own)]
                rest = [j for j in candidates if j not in always]
                chosen = always + largest(importance, num_selected - len(always), rest)
                in_chosen = indicator(chosen, len(blocks))[block_of]
                recent = np.arange(length) > t - window
                for h, of_head in zip(group, seen, strict=True):
                    for branch, kept, gate in (
                        ("selected", in_chosen, gates[b, t, num_heads + h]),
                        ("window", recent, gates[b, t, 2 * num_heads + h]),
                    ):
                        fine = softmax(scale * (keys[branch][b, g] @ query[b, h, t]), of_head & kept)
                        heads[b, h, t] += gate * (fine @ values[branch][b, g])
                        weights[b, h, t] += gate * fine
    return linear(parameters, "out_proj", merge_heads(heads)), weights


def _compressed(parameters: Parameters, name: str, heads: Array, starts: range, size: int) -> Array:
    """φ of each run of each head: (batch, kv_heads, runs, head_dim)."""
    inner = scope(parameters, name)
    batch, num_heads, _, head_dim = heads.shape
    dtype = np.result_type(heads, *inner.values())
    short = np.zeros((batch, num_heads, len(starts), head_dim), dtype)
    for b in range(batch):
        for g in range(num_heads):
            for i, start in enumerate(starts):
                run = heads[b, g, start : start + size]
                short[b, g, i] = compress(inner, run) if inner else run.mean(axis=0)
    return short


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
    """MoBA(q, K, V) = softmax(q K[I]ᵀ) V[I] with I the blocks of largest q·mean(K[I_i]) (Lu et al. 2025, eq. 2 to 6).

    The query's own block is in I and is causal; no later block is. A mean is over the keys that are visible.
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
    """o_i = Σ_r exp(z(i, P_i^r) − z(i, P_i)) o_i^r, P_i^r the chunk of i and the one before (Kitaev et al. 2020).

    h(x) = argmax([xR; −xR]) for each round (section 2); s_i is the rank of i by (h(q_i), i); a key in N_ij rounds has
    log N_ij taken from its score in each (appendix A). Keys are q_j √d / ‖q_j‖, and scores q·k / √d. Hidden positions
    have a bucket of their own; position i sees itself only if it sees no other. Buffer: `rotations`.
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
