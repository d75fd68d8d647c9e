"""Reader of CWM: Llama with windows in three of four layers."""

from __future__ import annotations

from attention_bridge.pretrained.families.decoder_fields import FULL, WINDOWED, grouped_heads, layer_types
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.rope import ORIGINAL, rope, with_default
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_llama import HF_LLAMA

DEFAULT = {
    "rope_type": "llama3",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    ORIGINAL: 8192,
}


def read_cwm(fields: Fields, tensors: Tensors) -> Reading:
    """Read a CWM configuration (Meta 2025)."""
    fields.raw("attention_bias")  # the reference has none
    num_layers, window = fields.layers("num_hidden_layers"), fields.size("sliding_window")
    plain = [FULL if n % 4 == 0 else WINDOWED for n in range(num_layers)]
    kinds = layer_types(fields, num_layers, fields.raw("layer_types", default=plain), (FULL, WINDOWED))
    heads = Heads(fields.size("hidden_size"), **grouped_heads(fields), norm_eps=fields.number("rms_norm_eps"))
    position = rope(with_default(fields, DEFAULT), heads.head_dim)
    ffn = gated_ffn(fields, bias=fields.flag("mlp_bias", False))
    layers = [
        layer_spec(heads.mixer(position, window if kind == WINDOWED else None), ffn, "pre", heads.norm())
        for kind in kinds
    ]
    return decoder(fields, layers, HF_LLAMA, norm=heads.norm())


FAMILIES = (Family("hf.llama", ("cwm",), read_cwm),)
