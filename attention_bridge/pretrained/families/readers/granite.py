"""Readers of Granite 3, Granite-MoE and HyperCLOVA X: Llama with factors on embeddings, residuals, scores, logits."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import grouped_heads, with_tied
from attention_bridge.pretrained.families.decoder_reading import gated_ffn
from attention_bridge.pretrained.families.describe import Heads, language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.expert_reading import mixture
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_granite_moe import HF_GRANITE_MOE
from attention_bridge.weights.layouts.hf_hyperclovax import HF_HYPERCLOVAX
from attention_bridge.weights.layouts.hf_llama import HF_LLAMA


def read_granite(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Granite configuration (IBM 2024)."""
    return _read(fields, gated_ffn(fields, bias=fields.flag("mlp_bias", False)), HF_LLAMA)


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


def read_hyperclovax(fields: Fields, tensors: Tensors) -> Reading:
    """Read a HyperCLOVA X configuration (NAVER 2025), which may normalise the outputs of sublayers, too."""
    head_dim = grouped_heads(fields)["head_dim"]
    scale = fields.number("attention_multiplier", default=None)
    return _read(
        fields,
        gated_ffn(fields, bias=fields.flag("mlp_bias", False)),
        HF_HYPERCLOVAX,
        arrangement="sandwich" if fields.flag("use_post_norm", True) else "pre",
        scale=head_dim**-0.5 if scale is None else scale,
        logit_scale=fields.number("logits_scaling"),
    )


def _read(fields: Fields, ffn: Part, layout: Layout, *, arrangement: str = "pre", **factors: Any) -> Reading:
    """The reading of a decoder of equal layers.

    Args:
        fields: the configuration.
        ffn: feed-forward network of each layer.
        layout: layout of the tensors.
        arrangement: order of norms and residuals.
        factors: the factors `scale` on the scores and `logit_scale` on the logits; without them, Granite's.
    """
    if not factors:
        logit_scale = 1.0 / fields.number("logits_scaling")
        factors = {"scale": fields.number("attention_multiplier"), "logit_scale": logit_scale}
    bias, tied = fields.flag("attention_bias", False), fields.flag("tie_word_embeddings", False)
    heads = Heads(
        fields.size("hidden_size"),
        **grouped_heads(fields),
        qkv_bias=bias,
        out_bias=bias,
        scale=factors["scale"],
        norm_eps=fields.number("rms_norm_eps"),
    )
    mixer = heads.mixer(rope(fields, heads.head_dim))
    fields.size("max_position_embeddings", default=None)
    layer = layer_spec(
        mixer,
        ffn,
        arrangement,
        heads.norm(),
        residual_scale=fields.number("residual_multiplier"),
    )
    spec = model_spec(
        fields.size("vocab_size"),
        heads.embed_dim,
        [layer] * fields.layers("num_hidden_layers"),
        norm=heads.norm(),
        embed_scale=fields.number("embedding_multiplier"),
        logit_scale=factors["logit_scale"],
        tied=tied,
    )
    layout = with_tied(layout, tied, "lm_head.weight", "model.embed_tokens.weight")
    return Reading(language_model(spec), layout)


FAMILIES = (
    Family("hf.llama", ("granite",), read_granite),
    Family("hf.hyperclovax", ("hyperclovax",), read_hyperclovax),
    Family("hf.granite_moe", ("granitemoe", "granitemoeshared"), read_granite_moe),
)
