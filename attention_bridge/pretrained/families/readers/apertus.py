"""Reader of Apertus (Swiss AI Initiative 2025): normalised queries and keys, and a learned activation."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import grouped_heads
from attention_bridge.pretrained.families.decoder_reading import decoder
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import rope, with_default
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_apertus import HF_APERTUS

DEFAULT = {
    "rope_type": "llama3",
    "rope_theta": 12_000_000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
LEARNED = "xielu"  # the activation with learned slopes


def read_apertus(fields: Fields, tensors: Tensors) -> Reading:
    """Read an Apertus configuration."""
    for name, value in (("mlp_bias", False), ("post_norm", False), ("qk_norm", True)):  # in published files
        fields.only(name, value)
    bias = fields.flag("attention_bias", False)
    heads = Heads(
        fields.size("hidden_size"),
        **grouped_heads(fields),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=True,
        norm_eps=fields.number("rms_norm_eps"),
    )
    layer = layer_spec(
        heads.mixer(rope(with_default(fields, DEFAULT), heads.head_dim)),
        _network(fields),
        "pre",
        heads.norm(),
    )
    return decoder(fields, [layer] * fields.layers("num_hidden_layers"), HF_APERTUS, norm=heads.norm())


def _network(fields: Fields) -> Part:
    """The feed-forward network, with the learned activation or another one."""
    activation = fields.word("hidden_act", words={**ACTIVATIONS, LEARNED: LEARNED})
    sizes = {"ffn_dim": fields.size("intermediate_size"), "bias": False}
    if activation == LEARNED:
        return Part("XIELUFeedForward", sizes)
    return Part("FeedForward", {**sizes, "activation": activation})


FAMILIES = (Family("hf.apertus", ("apertus",), read_apertus, decoder_heads("score")),)
