"""Readers of Kimi Linear and OLMo Hybrid: layers of the delta rule among layers of attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import (
    FULL,
    LINEAR,
    by_layer,
    grouped_heads,
    layer_types,
)
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.rope import parameters, rope
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_kimi_linear import HF_KIMI_LINEAR, HF_OLMO_HYBRID


def read_kimi_linear(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Kimi Linear configuration (Kimi Team 2025), whose latent attention has no rotary positions."""
    for name, value in (("hidden_act", "silu"), ("attention_bias", False), ("tie_word_embeddings", False),
                        ("mla_use_nope", True), ("moe_router_activation_func", "sigmoid"),
                        ("moe_layer_freq", 1), ("use_grouped_topk", True)):  # fmt: skip
        fields.only(name, value)
    for name in ("head_dim", "qk_head_dim", "rope_theta", "rope_scaling"):
        fields.raw(name)  # the reference ignores them
    heads = fields.size("num_attention_heads")
    if fields.size("num_key_value_heads", default=heads) != heads:
        raise CheckpointError(
            f"{fields.source} must have as many num_key_value_heads as num_attention_heads, "
            f"got {fields.raw('num_key_value_heads')} and {heads}"
        )
    fields.size("model_max_length", default=None)
    num_layers, eps = fields.layers("num_hidden_layers"), fields.number("rms_norm_eps")
    linear = fields.part("linear_attn_config", {})
    num_heads = linear.size("num_heads", default=fields.size("linear_num_heads"))
    head_dim = linear.size("head_dim", default=fields.size("linear_head_dim"))
    width = linear.size("short_conv_kernel_size", default=fields.size("linear_conv_kernel_dim"))
    full = linear.raw("full_attn_layers", default=[n + 1 for n in range(num_layers) if n and n % 4 == 0])
    linear.raw("kda_layers")
    linear.refuse_unread("fields that are not understood")
    kinds = fields.raw("layer_types", default=[FULL if n + 1 in full else LINEAR for n in range(num_layers)])
    mixers = {
        FULL: Part(
            "MultiHeadLatentAttention",
            {
                "num_heads": heads,
                "kv_lora_rank": fields.size("kv_lora_rank"),
                "q_lora_rank": fields.size("q_lora_rank", default=None),
                "nope_head_dim": fields.size("qk_nope_head_dim"),
                "rope_head_dim": fields.size("qk_rope_head_dim"),
                "value_head_dim": fields.size("v_head_dim"),
                "position": None,
            },
        ),
        LINEAR: Part(
            "KimiDeltaAttention",
            {"num_heads": num_heads, "head_dim": head_dim, "conv_width": width, "eps": eps},
        ),
    }
    dense = fields.whole("first_k_dense_replace", default=1)
    plain = ["dense" if n < dense else "sparse" for n in range(num_layers)]
    ffns = {"dense": gated_ffn(fields), "sparse": _experts(fields)}
    norm = Part("rms_norm", {"eps": eps})
    layers = [
        layer_spec(mixers[kind], ffns[ffn], "pre", norm)
        for kind, ffn in zip(
            layer_types(fields, num_layers, kinds, (LINEAR, FULL)),
            layer_types(
                fields, num_layers, fields.raw("mlp_layer_types", default=plain), ("dense", "sparse")
            ),
            strict=True,
        )
    ]
    axes = dict.fromkeys(("keys", "values"), num_heads * head_dim)
    return replace(decoder(fields, layers, HF_KIMI_LINEAR, norm=norm), axes=axes)


def read_olmo_hybrid(fields: Fields, tensors: Tensors) -> Reading:
    """Read an OLMo Hybrid configuration (Ai2 2026): gated delta nets, and attention with normalised outputs."""
    for name in (
        "linear_a_log_min",
        "linear_a_log_max",
        "linear_dt_min",
        "linear_dt_max",
        "linear_dt_init_floor",
    ):
        fields.raw(name)  # for the initialisation
    fields.only("hidden_act", "silu")  # also the activation of the short convolution
    num_layers, sizes = fields.layers("num_hidden_layers"), grouped_heads(fields)
    kinds = [FULL if n % 4 == 3 else LINEAR for n in range(num_layers)]
    kinds = kinds if FULL in kinds else [*kinds[:-1], FULL]
    kinds = list(layer_types(fields, num_layers, fields.raw("layer_types", default=kinds), (LINEAR, FULL)))
    heads = sizes["num_heads"]
    keys = fields.size("linear_num_key_heads", default=heads)
    values = fields.size("linear_num_value_heads", default=heads)
    if keys != values:
        raise CheckpointError(
            f"{fields.source} must have as many linear_num_value_heads as linear_num_key_heads, "
            f"got {values} and {keys}: the reference computes no other"
        )
    key_dim = fields.size("linear_key_head_dim", default=int(0.75 * fields.size("hidden_size") / keys))
    value_dim = fields.size("linear_value_head_dim", default=2 * key_dim)
    delta: dict[str, Any] = {
        "num_heads": keys,
        "num_value_heads": values,
        "head_dim": key_dim,
        "value_dim": value_dim,
        "conv_width": fields.size("linear_conv_kernel_dim"),
        "eps": 1e-5,
        "beta_scale": 2.0 if fields.flag("linear_allow_neg_eigval", True) else 1.0,
    }
    eps = fields.number("rms_norm_eps")
    attention = {
        **sizes,
        "bias": fields.flag("attention_bias", False),
        "eps": eps,
        "position": rope(fields, sizes["head_dim"]) if _is_rotary(fields) else None,
    }
    norm, ffn = Part("rms_norm", {"eps": eps}), gated_ffn(fields)
    layers = [
        layer_spec(Part("FullWidthQKNormAttention", attention), ffn, "output", norm)
        if kind == FULL
        else layer_spec(Part("GatedDeltaNet", delta), ffn, "pre", norm)
        for kind in kinds
    ]
    axes = {"keys": keys * key_dim, "values": values * value_dim}
    # Files written by transformers name the norm after attention like the second norm of the other layers.
    names = [f"model.layers.{n}.{{}}.weight" for n, kind in enumerate(kinds) if kind == FULL]
    again = [(x.format("feedforward_layer_norm"), x.format("post_attention_layernorm")) for x in names]
    layout = by_layer(HF_OLMO_HYBRID, ["self_attn." if kind == FULL else "linear_attn." for kind in kinds])
    layout = replace(layout, spellings=(*layout.spellings, *again))
    return replace(decoder(fields, layers, layout, norm=norm), axes=axes)


def _is_rotary(fields: Fields) -> bool:
    """Whether attention has rotary positions: whether there are parameters with a base."""
    given = parameters(fields)
    base = given.raw("rope_theta", default=fields.raw("rope_theta"))
    if base is None and len(given.given) > 1:
        raise CheckpointError(
            f"{fields.source} must have a rope_theta in rope_parameters, or no parameters, got {shown(given.given)}"
        )
    return base is not None


def _experts(fields: Fields) -> Part:
    """The mixture of experts, chosen by sigmoids, with shared experts."""
    dim = fields.size("moe_intermediate_size")
    routing = {
        "num_chosen": fields.size("num_experts_per_token", "num_experts_per_tok"),
        "num_groups": fields.size("num_expert_group", "n_group"),
        "num_chosen_groups": fields.size("topk_group"),
        "normalised": fields.raw("moe_renormalize", "norm_topk_prob"),
        "routed_scale": fields.number("routed_scaling_factor"),
    }
    return Part(
        "MixtureOfExperts",
        {
            "ffn_dim": dim,
            "num_experts": fields.size("num_experts", "num_local_experts"),
            "routing": Part("SigmoidRouting", routing),
            "shared_dim": dim * fields.size("num_shared_experts", "n_shared_experts"),
        },
    )


FAMILIES = (
    Family("hf.kimi_linear", ("kimi_linear",), read_kimi_linear),
    Family("hf.olmo_hybrid", ("olmo_hybrid",), read_olmo_hybrid),
)
