"""Reader of HunYuan's dense models: queries and keys are normalised after the rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import grouped_heads
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import parameters, rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_hunyuan import HF_HUNYUAN

STRETCH = "alpha"  # of the base of the frequencies, whatever the length of the text


def read_hunyuan(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of HunYuan's dense models (Tencent 2025)."""
    sizes, bias = grouped_heads(fields), fields.flag("attention_bias", False)
    fields.raw("eod_token_id")
    _stretch_base(fields, sizes["head_dim"])
    heads = Heads(
        fields.size("hidden_size"),
        **sizes,
        qkv_bias=bias,
        out_bias=bias,
        norm_eps=fields.number("rms_norm_eps"),
    )
    mixer = heads.mixer(rope(fields, heads.head_dim))
    norms = dict.fromkeys(("q_norm", "k_norm"), heads.norm(heads.head_dim))
    mixer = replace(mixer, arguments={**mixer.arguments, **norms, "norm_after_position": True})
    layer = layer_spec(mixer, gated_ffn(fields), "pre", heads.norm())
    return decoder(fields, [layer] * fields.layers("num_hidden_layers"), HF_HUNYUAN, norm=heads.norm())


def _stretch_base(fields: Fields, head_dim: int) -> None:
    """Replace a `dynamic` scaling with an `alpha`, which is a larger base, by that base."""
    given = parameters(fields)
    kind = given.raw("rope_type", "type", default="default")
    if kind != "dynamic" or not given.raw(STRETCH):
        return
    if head_dim <= 2:
        raise CheckpointError(f"{fields.source} must have a head_dim above 2 for {STRETCH}, got {head_dim}")
    base = given.number("rope_theta", default=fields.number("rope_theta", default=10000.0))
    base *= given.number(STRETCH) ** (head_dim / (head_dim - 2))
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(fields.given.get(name), Mapping):
            fields.given = {**fields.given, name: {"rope_theta": base}}


FAMILIES = (Family("hf.hunyuan", ("hunyuan_v1_dense",), read_hunyuan, decoder_heads("score")),)
