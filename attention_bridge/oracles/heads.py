"""Reference implementation of attention with shared or compressed heads of keys and values."""

from collections.abc import Callable
from functools import partial

import numpy as np

from attention_bridge.oracles.common import (
    Array,
    Parameters,
    dot_product_attention,
    linear,
    merge_heads,
    rms_norm,
    split_heads,
)
from attention_bridge.oracles.positions import rotary


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
    """Grouped-query attention (Ainslie et al. 2023, section 2.2).

    head_h = Attention(X W_h^Q, X W_g^K, X W_g^V), g = h // (H / G).
    `turn`, such as a rotary embedding, is applied to the heads of queries and keys.
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


def multi_query_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Multi-query attention, head_h = Attention(X W_h^Q, X W^K, X W^V) (Shazeer 2019, section 3)."""
    heads, weights = dot_product_attention(
        split_heads(linear(parameters, "q_proj", x), num_heads),
        linear(parameters, "k_proj", x)[:, None],
        linear(parameters, "v_proj", x)[:, None],
        mask=mask,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    return linear(parameters, "out_proj", merge_heads(heads)), weights


def multi_head_latent_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    kv_lora_rank: int,
    nope_head_dim: int,
    rope_head_dim: int,
    positions: Array,
    interleaved: bool = True,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, tuple[Array, Array], Array]:
    """Multi-head latent attention (DeepSeek-AI 2024, section 2.1 and equations 37 to 47), one position at a time.

    c_t = norm(W_DKV x_t), k_t,h = [W_UK,h c_t; RoPE(W_KR x_t)], v_t,h = W_UV,h c_t. Queries are computed likewise, but
    each head has its own rotated part. Parameters: W_DQ `q_a_proj` and [W_UQ; W_QR] `q_b_proj` around `q_a_norm`,
    [W_DKV; W_KR] `kv_a_proj`, [W_UK; W_UV] `kv_b_proj` head after head, W_O `out_proj`.
    Returns the output, the cached tensors (c, RoPE(W_KR x)) and the weights.
    """
    asked = rms_norm(parameters, "q_a_norm", linear(parameters, "q_a_proj", x), eps=1e-6)
    query = split_heads(linear(parameters, "q_b_proj", asked), num_heads)
    down, shared = (
        parameters["kv_a_proj.weight"][:kv_lora_rank],
        parameters["kv_a_proj.weight"][kv_lora_rank:],
    )
    latent = rms_norm(parameters, "kv_a_norm", x @ down.T, eps=1e-6)
    turn = partial(rotary, positions=positions, rotary_dim=rope_head_dim, interleaved=interleaved)
    rope_key = turn((x @ shared.T)[:, None])[:, 0]
    rope_query = turn(query[..., nope_head_dim:])

    key, value = [], []
    for of_head in np.split(parameters["kv_b_proj.weight"], num_heads):
        key.append(np.concatenate([latent @ of_head[:nope_head_dim].T, rope_key], axis=-1))
        value.append(latent @ of_head[nope_head_dim:].T)
    heads, weights = dot_product_attention(
        np.concatenate([query[..., :nope_head_dim], rope_query], axis=-1),
        np.stack(key, axis=1),
        np.stack(value, axis=1),
        mask=mask,
        is_causal=True,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    return linear(parameters, "out_proj", merge_heads(heads)), (latent, rope_key), weights
