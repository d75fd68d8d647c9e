"""Readers of Granite 3 and Granite-MoE: Llama with factors on embeddings, residuals, scores and logits."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import grouped_heads, with_tied
from attention_bridge.pretrained.families.describe import Heads, language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.expert_reading import mixture
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_granite_moe import HF_GRANITE_MOE
from attention_bridge.weights.layouts.hf_llama import HF_LLAMA


def read_granite(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Granite configuration (IBM 2024)."""
    ffn = {
        "ffn_dim": fields.size("intermediate_size"),
        "activation": fields.word("hidden_act", words=ACTIVATIONS),
        "bias": fields.flag("mlp_bias", False),
    }
    return _read(fields, Part("GatedFeedForward", ffn), HF_LLAMA)


def read_granite_moe(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of Granite-MoE (IBM 2024), with or without a shared expert."""
    shared = (
        fields.whole("shared_intermediate_size") if fields.given["model_type"] == "granitemoeshared" else 0
    )
    experts = mixture(
        fields,
        "SoftmaxRouting",
        ffn_dim="intermediate_size",
        experts=("num_local_experts",),
        shared_dim=shared or None,
    )
    return _read(fields, experts, HF_GRANITE_MOE)


def _read(fields: Fields, ffn: Part, layout: Layout) -> Reading:
    """The reading of a decoder of equal layers with this feed-forward network."""
    bias, tied = fields.flag("attention_bias", False), fields.flag("tie_word_embeddings", False)
    heads = Heads(
        fields.size("hidden_size"),
        **grouped_heads(fields),
        qkv_bias=bias,
        out_bias=bias,
        scale=fields.number("attention_multiplier"),
        norm_eps=fields.number("rms_norm_eps"),
    )
    mixer = heads.mixer(rope(fields, heads.head_dim))
    fields.size("max_position_embeddings", default=None)
    layer = layer_spec(
        mixer,
        ffn,
        "pre",
        heads.norm(),
        residual_scale=fields.number("residual_multiplier"),
    )
    spec = model_spec(
        fields.size("vocab_size"),
        heads.embed_dim,
        [layer] * fields.layers("num_hidden_layers"),
        norm=heads.norm(),
        embed_scale=fields.number("embedding_multiplier"),
        logit_scale=1.0 / fields.number("logits_scaling"),
        tied=tied,
    )
    layout = with_tied(layout, tied, "lm_head.weight", "model.embed_tokens.weight")
    return Reading(language_model(spec), layout)


FAMILIES = (
    Family("hf.llama", ("granite",), read_granite),
    Family("hf.granite_moe", ("granitemoe", "granitemoeshared"), read_granite_moe),
)
