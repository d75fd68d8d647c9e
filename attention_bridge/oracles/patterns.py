"""Reference implementation of attention patterns that depend on positions. Positions start at 0."""

from collections.abc import Callable

import numpy as np

from attention_bridge.oracles import positions as schemes
from attention_bridge.oracles.common import (
    Array,
    Parameters,
    dropout,
    linear,
    merge_heads,
    softmax,
    split_heads,
    visible,
)

Sees = Callable[[int, int, int], bool]  # from head, query and key


def _heads(parameters: Parameters, x: Array, num_heads: int, prefix: str = "") -> tuple[Array, Array, Array]:
    query, key, value = (
        split_heads(linear(parameters, f"{prefix}{name}_proj", x), num_heads) for name in "qkv"
    )
    return query, key, value


def _attend_where(
    sees: Sees,
    parameters: Parameters,
    x: Array,
    mask: Array | None,
    num_heads: int,
    dropout_keep: Array | None,
    dropout_rate: float,
    sinks: Array | None = None,
) -> tuple[Array, Array]:
    """Attention with s_ij = q_i·k_j / √d in which query i attends to key j of head h where `sees(h, i, j)` is True.

    With `sinks` b, exp(b_h) is added to the denominator.
    """
    query, key, value = _heads(parameters, x, num_heads)
    batch, _, length, head_dim = query.shape
    dtype = np.result_type(x, *parameters.values())
    output = np.zeros(value.shape, dtype)
    weights = np.zeros((batch, num_heads, length, length), dtype)
    for h in range(num_heads):
        for i in range(length):
            in_sight = np.array([sees(h, i, j) for j in range(length)])
            for b in range(batch):
                seen = in_sight & visible(mask, b, h, i, length)
                scores = key[b, h] @ query[b, h, i] / np.sqrt(head_dim)
                weights[b, h, i] = softmax(scores, seen, None if sinks is None else sinks[h])
                keep = None if dropout_keep is None else dropout_keep[b, h, i]
                output[b, h, i] = dropout(weights[b, h, i], keep, dropout_rate) @ value[b, h]
    return linear(parameters, "out_proj", merge_heads(output)), weights


def sliding_window_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    window: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention of query i to keys i − W < j ≤ i (Mistral, Jiang et al. 2023, section 2)."""
    return _attend_where(
        lambda h, i, j: i - window < j <= i, parameters, x, mask, num_heads, dropout_keep, dropout_rate
    )


def chunked_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    chunk_size: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention of query i to keys c C ≤ j ≤ i, where c C is the start of i's chunk (Llama 4, Meta 2025)."""
    return _attend_where(
        lambda h, i, j: i - i % chunk_size <= j <= i,
        parameters,
        x,
        mask,
        num_heads,
        dropout_keep,
        dropout_rate,
    )


def learned_sink_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention with learned sinks, α_ij = exp(s_ij) / (exp(b_h) + Σ_j' exp(s_ij')) (gpt-oss, OpenAI 2025)."""
    return _attend_where(
        lambda h, i, j: True,
        parameters,
        x,
        mask,
        num_heads,
        dropout_keep,
        dropout_rate,
        sinks=parameters["sinks"],
    )


def persistent_memory_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention to the visible keys followed by M learned keys, in one softmax (Sukhbaatar et al. 2019)."""
    query, key, value = _heads(parameters, x, num_heads)
    batch, _, length, head_dim = query.shape
    learned_keys, learned_values = parameters["memory_key"], parameters["memory_value"]
    columns = length + len(learned_keys)
    dtype = np.result_type(x, *parameters.values())
    output = np.zeros(value.shape, dtype)
    weights = np.zeros((batch, num_heads, length, columns), dtype)
    for b in range(batch):
        for h in range(num_heads):
            own = slice(h * head_dim, (h + 1) * head_dim)
            keys = np.concatenate([key[b, h], learned_keys[:, own]])
            values = np.concatenate([value[b, h], learned_values[:, own]])
            for i in range(length):
                seen = np.ones(columns, dtype=bool)
                seen[:length] = visible(mask, b, h, i, length)
                weights[b, h, i] = softmax(keys @ query[b, h, i] / np.sqrt(head_dim), seen)
                keep = None if dropout_keep is None else dropout_keep[b, h, i]
                output[b, h, i] = dropout(weights[b, h, i], keep, dropout_rate) @ values
    return linear(parameters, "out_proj", merge_heads(output)), weights


def longformer_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    one_sided_window: int,
    global_tokens: Array,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Longformer attention (Beltagy et al. 2020, section 3.1).

    Local tokens attend to neighbours and global tokens with the projections q, k, v. Global tokens attend to all
    tokens with the projections q^g, k^g, v^g.
    """
    local, of_global = _heads(parameters, x, num_heads), _heads(parameters, x, num_heads, "global_")
    batch, _, length, head_dim = local[0].shape
    dtype = np.result_type(x, *parameters.values())
    output = np.zeros(local[2].shape, dtype)
    weights = np.zeros((batch, num_heads, length, length), dtype)
    for b in range(batch):
        for i in range(length):
            if global_tokens[b, i]:
                (query, key, value), places = of_global, set(range(length))
            else:
                near = range(max(0, i - one_sided_window), min(length, i + one_sided_window + 1))
                (query, key, value), places = local, {*near, *np.flatnonzero(global_tokens[b])}
            for h in range(num_heads):
                seen = visible(mask, b, h, i, length) & np.isin(np.arange(length), list(places))
                weights[b, h, i] = softmax(key[b, h] @ query[b, h, i] / np.sqrt(head_dim), seen)
                keep = None if dropout_keep is None else dropout_keep[b, h, i]
                output[b, h, i] = dropout(weights[b, h, i], keep, dropout_rate) @ value[b, h]
    return linear(parameters, "out_proj", merge_heads(output)), weights


def big_bird_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    block_size: int,
    random_blocks: Array,
    window_blocks: int = 3,
    global_blocks: int = 1,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """BigBird attention of blocks to near, first, last and random blocks (Zaheer et al. 2020, section 2)."""
    num_blocks = x.shape[1] // block_size
    ends = {*range(global_blocks), *range(num_blocks - global_blocks, num_blocks)}

    def of_block(h: int, m: int) -> set[int]:
        if m in ends:
            return set(range(num_blocks))
        side = (window_blocks - 1) // 2
        return {*range(m - side, m + side + 1), *ends, *random_blocks[h, m].tolist()}

    blocks = [[of_block(h, m) for m in range(num_blocks)] for h in range(num_heads)]
    return _attend_where(
        lambda h, i, j: j // block_size in blocks[h][i // block_size],
        parameters,
        x,
        mask,
        num_heads,
        dropout_keep,
        dropout_rate,
    )


def streaming_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    window: int,
    num_sinks: int,
    rotary_dim: int | None = None,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Decoding token by token with a cache of the first s and the last W keys (Xiao et al. 2023, section 3.2).

    The cache holds unrotated keys; each step rotates them by their positions in the cache.
    """
    query, key, value = _heads(parameters, x, num_heads)
    batch, _, length, head_dim = query.shape
    dtype = np.result_type(x, *parameters.values())
    output = np.zeros(value.shape, dtype)
    weights = np.zeros((batch, num_heads, length, length), dtype)
    cache: list[int] = []  # indices of the cached tokens, in order
    for i in range(length):
        cache.append(i)
        if len(cache) > num_sinks + window:
            cache.pop(num_sinks)
        keys, asked = key[:, :, cache], query[:, :, i : i + 1]
        if rotary_dim is not None:
            places = np.arange(len(cache))[None]
            keys, asked = (
                schemes.rotary(keys, places, rotary_dim),
                schemes.rotary(asked, places[:, -1:], rotary_dim),
            )
        for b in range(batch):
            for h in range(num_heads):
                seen = visible(mask, b, h, i, length)[cache]
                weights[b, h, i, cache] = softmax(keys[b, h] @ asked[b, h, 0] / np.sqrt(head_dim), seen)
                keep = None if dropout_keep is None else dropout_keep[b, h, i]
                output[b, h, i] = dropout(weights[b, h, i], keep, dropout_rate) @ value[b, h]
    return linear(parameters, "out_proj", merge_heads(output)), weights
