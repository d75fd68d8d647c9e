"""Reader of Starcoder 2."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import grouped_heads
from attention_bridge.pretrained.families.decoder_reading import decoder, plain_ffn
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_starcoder2 import HF_STARCODER2


def read_starcoder2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Starcoder 2 configuration (Lozhkov et al. 2024): layer norms, biases, windows in all layers."""
    sizes, bias = grouped_heads(fields), fields.flag("use_bias", True)
    fields.raw("residual_dropout", "embedding_dropout")
    heads = Heads(fields.size("hidden_size"), **sizes, qkv_bias=bias, out_bias=bias)
    norm = Part("layer_norm", {"eps": fields.number("norm_epsilon")})
    mixer = heads.mixer(rope(fields, sizes["head_dim"]), fields.size("sliding_window", default=None))
    layer = layer_spec(mixer, plain_ffn(fields, bias=bias), "pre", norm)
    layers = [layer] * fields.layers("num_hidden_layers")
    return decoder(fields, layers, HF_STARCODER2, norm=norm, tied=True)


FAMILIES = (Family("hf.starcoder2", ("starcoder2",), read_starcoder2, decoder_heads("score")),)
