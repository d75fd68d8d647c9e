"""Readers of OLMo 1, 2 and 3, and of FlexOlmo."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import FULL, WINDOWED, grouped_heads, layer_types
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.expert_reading import mixture, stored_layout
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_llama import HF_LLAMA
from attention_bridge.weights.layouts.hf_olmo import HF_FLEX_OLMO, HF_FLEX_OLMO_STACKED, HF_OLMO2


def read_olmo(fields: Fields, tensors: Tensors) -> Reading:
    """Read an OLMo configuration (Groeneveld et al. 2024): layer norms without parameters, and clipped projections."""
    sizes, bias = grouped_heads(fields), fields.flag("attention_bias", False)
    fields.raw("rms_norm_eps")
    clip = fields.number("clip_qkv", default=None)
    heads = Heads(fields.size("hidden_size"), **sizes, qkv_bias=bias, out_bias=bias, clip=clip)
    norm = Part("layer_norm", {"eps": 1e-5, "learned": False})
    layer = layer_spec(heads.mixer(rope(fields, sizes["head_dim"])), gated_ffn(fields), "pre", norm)
    return decoder(fields, [layer] * fields.layers("num_hidden_layers"), HF_LLAMA, norm=norm)


def read_olmo2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of OLMo 2 (OLMo et al. 2024) or 3, which has windows in three of four layers."""
    return _read(fields, gated_ffn(fields), HF_OLMO2)


def read_flex_olmo(fields: Fields, tensors: Tensors) -> Reading:
    """Read a FlexOlmo configuration (Shi et al. 2025): OLMo 2 with mixtures of experts."""
    rule = {"normalised": fields.flag("norm_topk_prob", False)}
    experts = mixture(fields, "SoftmaxRouting", ffn_dim="intermediate_size", rule=rule)
    return _read(fields, experts, stored_layout(tensors, HF_FLEX_OLMO, HF_FLEX_OLMO_STACKED))


def _read(fields: Fields, ffn: Part, layout: Layout) -> Reading:
    """Read a decoder whose sublayers' outputs are normalised, and queries and keys over all heads jointly."""
    num_layers, sizes = fields.layers("num_hidden_layers"), grouped_heads(fields)
    third = fields.given.get("model_type") == "olmo3"
    windows = _windows(fields, num_layers) if third else (None,) * num_layers
    positions = {
        windowed: rope(fields, sizes["head_dim"], layers=WINDOWED if windowed else FULL)
        for windowed in {window is not None for window in windows}
    }
    norm = Part("rms_norm", {"eps": fields.number("rms_norm_eps")})
    shared = {**sizes, "bias": fields.flag("attention_bias", False), "eps": norm.arguments["eps"]}
    layers = [
        layer_spec(
            Part(
                "FullWidthQKNormAttention",
                {**shared, "window": window, "position": positions[window is not None]},
            ),
            ffn,
            "output",
            norm,
        )
        for window in windows
    ]
    return decoder(fields, layers, layout, norm=norm)


def _windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    plain = [FULL if (n + 1) % 4 == 0 else WINDOWED for n in range(num_layers)]
    kinds = layer_types(fields, num_layers, fields.raw("layer_types", default=plain), (FULL, WINDOWED))
    window = fields.size("sliding_window", default=4096)
    return tuple(window if kind == WINDOWED else None for kind in kinds)


HEADS = decoder_heads("score")
FAMILIES = (
    Family("hf.olmo", ("olmo",), read_olmo, HEADS),
    Family("hf.olmo2", ("olmo2", "olmo3"), read_olmo2, HEADS),
    Family("hf.flex_olmo", ("flex_olmo",), read_flex_olmo),
)
