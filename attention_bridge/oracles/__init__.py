"""Reference implementations of the mechanisms in float64 NumPy, from the papers, in plain loops.

The tests compare both mirrors with them. `parameters` maps a canonical name (`q_proj.weight`, (out, in)) to its array.
A mask is boolean: True in row i and column j means that query i attends to key j; fully masked rows have weights of
exactly zero.
"""

from attention_bridge.oracles.attention_basics import (
    basic_attention,
    luong_concat_attention,
    luong_dot_attention,
    luong_general_attention,
    scaled_dot_product_attention,
)
from attention_bridge.oracles.common import dot_product_attention
from attention_bridge.oracles.cross_attention import (
    cross_attention,
    encoder_decoder_attention,
    multi_head_cross_attention,
)
from attention_bridge.oracles.decoder import decoder
from attention_bridge.oracles.encoder import encoder
from attention_bridge.oracles.gradient import gradient
from attention_bridge.oracles.self_attention import (
    causal_self_attention,
    multi_head_self_attention,
    self_attention,
)

__all__ = [
    "basic_attention",
    "causal_self_attention",
    "cross_attention",
    "decoder",
    "dot_product_attention",
    "encoder",
    "encoder_decoder_attention",
    "gradient",
    "luong_concat_attention",
    "luong_dot_attention",
    "luong_general_attention",
    "multi_head_cross_attention",
    "multi_head_self_attention",
    "scaled_dot_product_attention",
    "self_attention",
]
