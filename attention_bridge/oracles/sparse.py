"""Keys chosen by what they hold: each choice as the paper makes it, one query at a time.

A choice compares real parts and has no gradient; of equal scores the first is taken.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

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


def largest(scores: Array, k: int, candidates: Sequence[int]) -> list[int]:
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
