"""Reference implementation of native sparse attention with compressed, selected and window keys (Yuan et al. 2025)."""

import math
from collections.abc import Callable

import numpy as np

from attention_bridge.oracles.common import (
    Array,
    Parameters,
    linear,
    merge_heads,
    relu,
    scope,
    softmax,
    split_heads,
    visible,
)
from attention_bridge.oracles.sparse import indicator, largest, up_to


def compress(parameters: Parameters, run: Array) -> Array:
    """Compression φ(k_1, ..., k_l) = W₂ ReLU(W₁ [k_1; ...; k_l] + b₁) + b₂ of keys with added position embeddings."""
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
    """Native sparse attention (Yuan et al. 2025, equations 5 to 12).

    o_t = Σ_c g_t^c Attn(q_t, K_t^c, V_t^c) over the branches c: compression, selection and window.
    Without parameters `key_compression` and `value_compression` φ is the mean. The returned weights are the gated sum
    of the three branches' weights; the weight of a compressed key is divided equally among the keys of its run.
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
    overlap = np.zeros((len(starts), len(blocks)))  # equation 9: counts the strides of a run in a block
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
                importance = np.zeros(len(blocks), dtype)  # per block, for the group
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
    """Compress each run of each head with φ; returns (batch, kv_heads, runs, head_dim)."""
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
