"""The mechanisms in float64 numpy, from their papers, in plain loops: the judge of both mirrors.

`parameters` maps a hub name (`q_proj.weight`, (out, in)) to its array. A mask is boolean: True in row i and
column j means query i attends to key j; a row that sees nothing has exactly zero weights.
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
