"""Reader of SmolLM3."""

from __future__ import annotations

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import FULL, WINDOWED, grouped_heads, layer_types
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_llama import HF_LLAMA


def read_smollm3(fields: Fields, tensors: Tensors) -> Reading:
    """Read a SmolLM3 configuration (Bakouch et al. 2025): every fourth layer has no rotary positions (NoPE)."""
    num_layers, sizes = fields.layers("num_hidden_layers"), grouped_heads(fields)
    bias = fields.flag("attention_bias", False)
    eps = fields.number("rms_norm_eps")
    heads = Heads(fields.size("hidden_size"), **sizes, qkv_bias=bias, out_bias=bias, norm_eps=eps)
    interval = fields.size("no_rope_layer_interval", default=4)
    turned = fields.raw("no_rope_layers", default=[int((n + 1) % interval != 0) for n in range(num_layers)])
    if not isinstance(turned, list) or len(turned) < num_layers or any(each not in (0, 1) for each in turned):
        raise CheckpointError(
            f"{fields.source} must have no_rope_layers 0 or 1 for each of {num_layers} layers, got {shown(turned)}"
        )
    window = fields.size("sliding_window", default=None)
    windowed = fields.flag("use_sliding_window", False) and window is not None
    plain = [WINDOWED if windowed and not each else FULL for each in turned[:num_layers]]
    kinds = layer_types(fields, num_layers, fields.raw("layer_types", default=plain), (FULL, WINDOWED))
    ffn, position = gated_ffn(fields, bias=fields.flag("mlp_bias", False)), rope(fields, sizes["head_dim"])
    layers = [
        layer_spec(
            heads.mixer(position if each else None, window if windowed and kind == WINDOWED else None),
            ffn,
            "pre",
            heads.norm(),
        )
        for each, kind in zip(turned, kinds, strict=False)
    ]
    return decoder(fields, layers, HF_LLAMA, norm=heads.norm(), tied=True)


FAMILIES = (Family("hf.smollm3", ("smollm3",), read_smollm3, decoder_heads("score")),)
