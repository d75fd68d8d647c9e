"""Attention with fewer heads of keys and values than of queries."""

from collections.abc import Callable

from attention_bridge.oracles.common import (
    Array,
    Parameters,
    dot_product_attention,
    linear,
    merge_heads,
    split_heads,
)


def grouped_query_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    num_kv_heads: int,
    is_causal: bool = False,
    turn: Callable[[Array], Array] = lambda heads: heads,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """head_h = Attention(X W_h^Q, X W_g^K, X W_g^V), g = h // (H / G) (Ainslie et al. 2023, section 2.2).

    `turn` is applied to the heads of queries and keys.
    """
    heads, weights = dot_product_attention(
        turn(split_heads(linear(parameters, "q_proj", x), num_heads)),
        turn(split_heads(linear(parameters, "k_proj", x), num_kv_heads)),
        split_heads(linear(parameters, "v_proj", x), num_kv_heads),
        mask=mask,
        is_causal=is_causal,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    return linear(parameters, "out_proj", merge_heads(heads)), weights
