"""Readers of Command R (Cohere) and Command R7B (Cohere 2): parallel sublayers with one norm, scaled logits."""

from __future__ import annotations

from dataclasses import replace

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import (
    FULL,
    WINDOWED,
    grouped_heads,
    layer_types,
    with_tied,
)
from attention_bridge.pretrained.families.describe import Heads, language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_cohere import HF_COHERE

KINDS = (WINDOWED, FULL)


def read_cohere(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Command R configuration (Cohere 2024): queries and keys may be normalised per head."""
    heads = _heads(fields)
    mixer = heads.mixer(rope(fields, heads.head_dim, interleaved=True))
    if fields.flag("use_qk_norm", False):
        sizes = {"dim": heads.head_dim, "eps": heads.norm_eps}
        norms = {
            name: Part("head_layer_norm", {"num_heads": count, **sizes})
            for name, count in (("q_norm", heads.num_heads), ("k_norm", heads.num_kv_heads))
        }
        mixer = replace(mixer, arguments={**mixer.arguments, **norms})
    return _reading(fields, heads, [mixer] * fields.layers("num_hidden_layers"))


def read_cohere2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Command R7B configuration (Cohere 2024): layers with a window, and layers without positions."""
    heads, count = _heads(fields), fields.layers("num_hidden_layers")
    every = fields.size("sliding_window_pattern", default=4)
    kinds = fields.raw("layer_types") or [KINDS[(n + 1) % every == 0] for n in range(count)]
    kinds = layer_types(fields, count, kinds, KINDS)
    turned = heads.mixer(rope(fields, heads.head_dim, interleaved=True), fields.size("sliding_window"))
    mixers = [turned if kind == KINDS[0] else heads.mixer(None) for kind in kinds]
    return _reading(fields, heads, mixers)


def _heads(fields: Fields) -> Heads:
    bias = fields.flag("attention_bias", False)
    return Heads(
        fields.size("hidden_size"),
        **grouped_heads(fields),
        qkv_bias=bias,
        out_bias=bias,
        norm_eps=fields.number("layer_norm_eps"),
    )


def _reading(fields: Fields, heads: Heads, mixers: list[Part]) -> Reading:
    tied = fields.flag("tie_word_embeddings", True)
    fields.size("max_position_embeddings", default=None)
    activation = fields.word("hidden_act", words=ACTIVATIONS)
    ffn = Part("GatedFeedForward", {"ffn_dim": fields.size("intermediate_size"), "activation": activation})
    norm = Part("layer_norm", {"eps": heads.norm_eps, "bias": False})
    spec = model_spec(
        fields.size("vocab_size"),
        heads.embed_dim,
        [layer_spec(mixer, ffn, "parallel_shared_norm", norm) for mixer in mixers],
        norm=norm,
        logit_scale=fields.number("logit_scale"),
        tied=tied,
    )
    layout = with_tied(HF_COHERE, tied, "lm_head.weight", "model.embed_tokens.weight")
    return Reading(language_model(spec), layout)


FAMILIES = (
    Family("hf.cohere", ("cohere",), read_cohere),
    Family("hf.cohere", ("cohere2",), read_cohere2),
)
