"""Readers of DeepSeek-V2, V3 and V3.2, Kimi K2, GLM-5 and Youtu: latent attention and mixtures of experts."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import layer_types
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import layer_spec
from attention_bridge.pretrained.families.expert_reading import mixture, stored_layout, without_prediction
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import parameters, rope, yarn_scale
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_deepseek import (
    HF_DEEPSEEK_V3,
    HF_DEEPSEEK_V3_STACKED,
    HF_DEEPSEEK_V32,
    HF_DEEPSEEK_V32_STACKED,
)

SPARSE, DENSE, MIXED = "indexed_attention", "dense", "sparse"
EXPERTS = ("n_routed_experts", "num_local_experts")


def read_deepseek_v3(fields: Fields, tensors: Tensors) -> Reading:
    """Read a DeepSeek-V3 (DeepSeek-AI 2024) or Kimi K2 configuration, without layers for multi-token prediction."""
    mixer = _attention(fields, interleaved=fields.flag("rope_interleave", True))
    layout = stored_layout(tensors, HF_DEEPSEEK_V3, HF_DEEPSEEK_V3_STACKED)
    return _read(fields, tensors, mixer, _sigmoid_experts(fields), layout)


def read_youtu(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Youtu configuration (Tencent 2025): latent attention without a mixture of experts."""
    fields.raw("embedding_initializer_range")
    norm = Part("rms_norm", {"eps": fields.number("rms_norm_eps")})
    mixer = _attention(fields, interleaved=fields.flag("rope_interleave", True))
    layer = layer_spec(mixer, gated_ffn(fields), "pre", norm)
    return decoder(fields, [layer] * fields.layers("num_hidden_layers"), HF_DEEPSEEK_V3, norm=norm, tied=True)


def read_deepseek_v2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a DeepSeek-V2 configuration (DeepSeek-AI 2024)."""
    fields.only("mlp_bias", False)
    for name in ("norm_topk_prob", "scoring_func"):  # the reference does not read them
        fields.raw(name)
    grouped = fields.word("topk_method", words={"greedy": False, "group_limited_greedy": True})
    if not grouped:
        fields.seen.update(("n_group", "topk_group"))
    experts = mixture(
        fields,
        "SoftmaxRouting",
        experts=("n_routed_experts", "num_experts"),
        activation=False,
        grouped=grouped,
        rule={"normalised": False, "routed_scale": fields.number("routed_scaling_factor")},
        shared_dim=_shared(fields),
    )
    layout = stored_layout(tensors, HF_DEEPSEEK_V3, HF_DEEPSEEK_V3_STACKED)
    return _read(fields, tensors, _attention(fields, interleaved=True), experts, layout)


def read_deepseek_v32(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of DeepSeek-V3.2 (DeepSeek-AI 2025) or GLM-5 (Zeng et al. 2026).

    An indexer selects the keys that a query attends to; in GLM-5 it has neighbouring rotary pairs.
    """
    fields.raw("rope_interleave")  # the reference does not read it
    fields.only("mlp_bias", False)
    glm = fields.given["model_type"] == "glm_moe_dsa"
    num_layers, turned = fields.layers("num_hidden_layers"), fields.size("qk_rope_head_dim")
    layer_types(fields, num_layers, fields.raw("layer_types", default=[SPARSE] * num_layers), (SPARSE,))
    if glm:
        _check_indexers(fields, num_layers)
    rank, index_dim = fields.size("q_lora_rank"), fields.size("index_head_dim")
    indexer = {
        "num_heads": fields.size("index_n_heads"),
        "head_dim": index_dim,
        "query_dim": rank,
        "position": rope(fields, turned, head_dim=index_dim, interleaved=glm),
    }
    parts = {
        "attention": _attention(fields, interleaved=True),
        "indexer": Part("LightningIndexer", indexer),
        "top_k": fields.size("index_topk"),
    }
    mixer = Part("DeepSeekSparseAttention", parts)
    layout = stored_layout(tensors, HF_DEEPSEEK_V32, HF_DEEPSEEK_V32_STACKED)
    return _read(fields, tensors, mixer, _sigmoid_experts(fields), layout)


def _check_indexers(fields: Fields, num_layers: int) -> None:
    """Raise unless each layer has an indexer of its own."""
    kinds = fields.raw("indexer_types")
    if kinds is None:
        fields.only("index_topk_pattern", None)
        fields.only("index_topk_freq", 1)
    for name in ("index_topk_pattern", "index_topk_freq", "index_skip_topk_offset"):
        fields.seen.add(name)
    if kinds not in (None, ["full"] * num_layers):
        raise CheckpointError(
            f"{fields.source} must have indexer_types full in each of {num_layers} layers, got {shown(kinds)}"
        )


def _sigmoid_experts(fields: Fields) -> Part:
    """The mixture of experts of DeepSeek-V3."""
    fields.only("scoring_func", "sigmoid")
    fields.only("topk_method", "noaux_tc")
    return mixture(
        fields,
        "SigmoidRouting",
        experts=EXPERTS,
        activation=False,
        grouped=True,
        rule={
            "normalised": fields.flag("norm_topk_prob", True),
            "routed_scale": fields.number("routed_scaling_factor"),
        },
        shared_dim=_shared(fields),
    )


def _shared(fields: Fields) -> int:
    """Hidden features of the shared experts together."""
    return fields.size("n_shared_experts") * fields.size("moe_intermediate_size")


def _attention(fields: Fields, *, interleaved: bool) -> Part:
    """Latent attention."""
    fields.only("attention_bias", False)
    for name in ("num_key_value_heads", "qk_head_dim", "head_dim"):  # the other sizes determine them
        fields.size(name, default=None)
    nope, turned = fields.size("qk_nope_head_dim"), fields.size("qk_rope_head_dim")
    return Part(
        "MultiHeadLatentAttention",
        {
            "num_heads": fields.size("num_attention_heads"),
            "kv_lora_rank": fields.size("kv_lora_rank"),
            "q_lora_rank": fields.size("q_lora_rank", default=None),
            "nope_head_dim": nope,
            "rope_head_dim": turned,
            "value_head_dim": fields.size("v_head_dim"),
            "position": rope(fields, turned, interleaved=interleaved),
            "scale": (nope + turned) ** -0.5 * yarn_scale(parameters(fields)),
        },
    )


def _read(fields: Fields, tensors: Tensors, mixer: Part, experts: Part, layout: Layout) -> Reading:
    """The reading of a decoder with this mixture of experts in all but its first layers."""
    fields.only("hidden_act", "silu")
    fields.only("moe_layer_freq", 1)
    num_layers = fields.layers("num_hidden_layers")
    first = fields.whole("first_k_dense_replace", default=0)
    plain = [DENSE if n < first else MIXED for n in range(num_layers)]
    kinds = fields.raw("mlp_layer_types", default=plain)
    if not isinstance(kinds, list) or len(kinds) != num_layers or any(x not in (DENSE, MIXED) for x in kinds):
        raise CheckpointError(
            f"{fields.source} must have mlp_layer_types dense or sparse for each of {num_layers} layers, "
            f"got {shown(kinds)}"
        )
    norm = Part("rms_norm", {"eps": fields.number("rms_norm_eps")})
    dense = Part("GatedFeedForward", {"ffn_dim": fields.size("intermediate_size")})
    layers = [layer_spec(mixer, dense if kind == DENSE else experts, "pre", norm) for kind in kinds]
    return decoder(fields, layers, without_prediction(layout, tensors, num_layers), norm=norm)


HEADS = decoder_heads("score")
FAMILIES = (
    Family("hf.deepseek_v3", ("deepseek_v3", "kimi_k2"), read_deepseek_v3, HEADS),
    Family("hf.deepseek_v3", ("deepseek_v2",), read_deepseek_v2, HEADS[:1]),
    Family("hf.deepseek_v3", ("youtu",), read_youtu),
    Family("hf.deepseek_v32", ("deepseek_v32", "glm_moe_dsa"), read_deepseek_v32),
)
