"""Readers of Qwen3-Next and Qwen3.5: gated delta nets with a gated attention layer after every few of them."""

from __future__ import annotations

from dataclasses import replace

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import (
    FULL,
    LINEAR,
    by_layer,
    grouped_heads,
    layer_types,
)
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.defaults import defaults_of
from attention_bridge.pretrained.families.describe import layer_spec
from attention_bridge.pretrained.families.expert_reading import sparse_layers
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import rope, rotary_share
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_qwen3_next import HF_QWEN3_5, HF_QWEN3_NEXT

IMAGE_FIELDS = (
    "vision_config", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id",
)  # fmt: skip


def read_qwen3_next(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Qwen3-Next configuration (Qwen Team 2025), without the layers for multi-token prediction."""
    num_layers = fields.layers("num_hidden_layers")
    num_experts = fields.whole("num_experts")
    sparse = [num_experts > 0 and each for each in sparse_layers(fields, num_layers)]
    normalised = fields.flag("norm_topk_prob", True)
    ffns = [_experts(fields, normalised) if each else gated_ffn(fields) for each in sparse]
    fields.seen |= {"intermediate_size", "moe_intermediate_size"}  # of layers that there may be none of
    fields.seen |= {"shared_expert_intermediate_size", "num_experts_per_tok"}
    return _read(fields, ffns, HF_QWEN3_NEXT)


def read_qwen3_5_text(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of the text model of Qwen3.5 (Qwen Team 2026), dense or with experts."""
    fields.raw("intermediate_size")  # of the dense model
    sparse = fields.given.get("model_type") == "qwen3_5_moe_text"
    ffn = _experts(fields, True) if sparse else gated_ffn(fields)
    return _read(fields, [ffn] * fields.layers("num_hidden_layers"), HF_QWEN3_5)


def read_qwen3_5(fields: Fields, tensors: Tensors) -> Reading:
    """Read the text model inside a multimodal Qwen3.5 (Qwen Team 2026), without the modules that read images."""
    text = fields.part("text_config", defaults_of(f"{fields.given['model_type']}_text"))
    for name in IMAGE_FIELDS:
        fields.raw(name)
    if "tie_word_embeddings" in fields.given:
        text.given = {"tie_word_embeddings": fields.raw("tie_word_embeddings"), **text.given}
    text.given = {**text.given, "model_type": f"{fields.given['model_type']}_text"}
    reading = read_qwen3_5_text(text, tensors)
    text.finish()
    return reading


def _experts(fields: Fields, normalised: bool) -> Part:
    """The mixture of experts, with a gated shared expert."""
    routing = {"num_chosen": fields.size("num_experts_per_tok"), "normalised": normalised}
    return Part(
        "MixtureOfExperts",
        {
            "ffn_dim": fields.size("moe_intermediate_size"),
            "num_experts": fields.size("num_experts"),
            "routing": Part("SoftmaxRouting", routing),
            "shared_dim": fields.size("shared_expert_intermediate_size"),
            "shared_gate": True,
        },
    )


def _read(fields: Fields, ffns: list[Part], layout: Layout) -> Reading:
    """Read a decoder with these feed-forward networks."""
    fields.only("hidden_act", "silu")  # also the activation of the short convolution
    fields.raw("router_aux_loss_coef")
    eps, num_layers = fields.number("rms_norm_eps"), len(ffns)
    every = fields.size("full_attention_interval", default=4)
    regular = [LINEAR if (n + 1) % every else FULL for n in range(num_layers)]
    kinds = layer_types(fields, num_layers, fields.raw("layer_types", default=regular), (LINEAR, FULL))
    keys, values = fields.size("linear_num_key_heads"), fields.size("linear_num_value_heads")
    fields.divides("linear_num_value_heads", values, "linear_num_key_heads", keys)
    key_dim, value_dim = fields.size("linear_key_head_dim"), fields.size("linear_value_head_dim")
    delta = Part(
        "GatedDeltaNet",
        {
            "num_heads": keys,
            "num_value_heads": values,
            "head_dim": key_dim,
            "value_dim": value_dim,
            "conv_width": fields.size("linear_conv_kernel_dim"),
            "eps": eps,
        },
    )
    sizes = grouped_heads(fields)
    head_dim = sizes["head_dim"]
    head_norm = Part("rms_norm", {"dim": head_dim, "eps": eps, "unit_offset": True})
    attention = Part(
        "GatedAttention",
        {
            **sizes,
            "q_norm": head_norm,
            "k_norm": head_norm,
            "position": rope(fields, int(head_dim * rotary_share(fields, 0.25)), head_dim=head_dim),
            "bias": fields.flag("attention_bias", False),
        },
    )
    norm = Part("rms_norm", {"eps": eps, "unit_offset": True})
    layers = [
        layer_spec(attention if kind == FULL else delta, ffn, "pre", norm)
        for kind, ffn in zip(kinds, ffns, strict=True)
    ]
    axes = {"d": head_dim, "key_heads": keys, "key_dim": key_dim, "value_dim": value_dim}
    axes["repeats"] = values // keys
    layout = by_layer(layout, ["self_attn." if kind == FULL else "linear_attn." for kind in kinds])
    return replace(decoder(fields, layers, layout, norm=norm), axes=axes)


HEADS = decoder_heads("score")
FAMILIES = (
    Family("hf.qwen3_next", ("qwen3_next",), read_qwen3_next, HEADS),
    Family("hf.qwen3_5_text", ("qwen3_5_text", "qwen3_5_moe_text"), read_qwen3_5_text, HEADS),
    Family("hf.qwen3_5", ("qwen3_5", "qwen3_5_moe"), read_qwen3_5, HEADS),
)
