"""Readers of decoders like Llama with mixtures of experts: Mixtral, Qwen-MoE, OLMoE, Phi-3.5-MoE."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import FULL, WINDOWED, grouped_heads, layer_types
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.expert_reading import CHOSEN, mixture, sparse_layers, stored_layout
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_mixtral import HF_MIXTRAL
from attention_bridge.weights.layouts.hf_phimoe import HF_PHIMOE, HF_PHIMOE_STACKED
from attention_bridge.weights.layouts.hf_qwen2_moe import HF_QWEN2_MOE, HF_QWEN2_MOE_STACKED


def read_mixtral(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Mixtral configuration (Jiang et al. 2024)."""
    heads = _heads(fields)
    window = fields.size("sliding_window", default=None)
    experts = mixture(fields, "SoftmaxRouting", ffn_dim="intermediate_size")
    layer = layer_spec(heads.mixer(rope(fields, heads.head_dim), window), experts, "pre", heads.norm())
    layout = stored_layout(tensors, HF_MIXTRAL, HF_QWEN2_MOE_STACKED)
    return decoder(fields, [layer] * fields.layers("num_hidden_layers"), layout, norm=heads.norm())


def read_qwen3_moe(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Qwen3-MoE configuration (Yang et al. 2025): normalised queries and keys."""
    bias = fields.flag("attention_bias", False)
    heads = _heads(fields, qkv_bias=bias, out_bias=bias, qk_norm=True)
    fields.raw("max_window_layers")  # the reference does not read it
    windowed = fields.flag("use_sliding_window", False)
    window = fields.size("sliding_window", default=None) if windowed else None
    fields.seen.add("sliding_window")
    return _qwen_moe(fields, tensors, heads, [window] * fields.layers("num_hidden_layers"))


def read_qwen2_moe(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Qwen2-MoE configuration (Yang et al. 2024): a shared expert with a gate, and windows in some layers."""
    heads = _heads(fields, qkv_bias=fields.flag("qkv_bias", True))
    num_layers, windowed = fields.layers("num_hidden_layers"), fields.flag("use_sliding_window", False)
    last = fields.whole("max_window_layers")
    plain = [WINDOWED if windowed and n % 2 == 0 and n < last else FULL for n in range(num_layers)]
    kinds = layer_types(fields, num_layers, fields.raw("layer_types", default=plain), (FULL, WINDOWED))
    if WINDOWED in kinds and not windowed:
        raise CheckpointError(
            f"{fields.source} must have use_sliding_window true for layer_types with {WINDOWED}, got false"
        )
    window = fields.size("sliding_window") if WINDOWED in kinds else None
    fields.seen.add("sliding_window")
    shared = {"shared_dim": fields.size("shared_expert_intermediate_size"), "shared_gate": True}
    windows = [window if kind == WINDOWED else None for kind in kinds]
    return _qwen_moe(fields, tensors, heads, windows, **shared)


def read_olmoe(fields: Fields, tensors: Tensors) -> Reading:
    """Read an OLMoE configuration (Muennighoff et al. 2024): queries and keys normalised over all heads jointly."""
    fields.only("clip_qkv", None)
    norm = Part("rms_norm", {"eps": fields.number("rms_norm_eps")})
    sizes = grouped_heads(fields)
    given = {"bias": fields.flag("attention_bias", False), "eps": norm.arguments["eps"]}
    position = rope(fields, sizes["head_dim"])
    experts = mixture(fields, "SoftmaxRouting", ffn_dim="intermediate_size", rule=normalised(fields))
    mixer = Part("FullWidthQKNormAttention", {**sizes, **given, "position": position})
    layers = [layer_spec(mixer, experts, "pre", norm)] * fields.layers("num_hidden_layers")
    return decoder(fields, layers, stored_layout(tensors, HF_QWEN2_MOE, HF_QWEN2_MOE_STACKED), norm=norm)


def read_phimoe(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Phi-3.5-MoE configuration (Abdin et al. 2024): layer norms, and two experts by SparseMixer."""
    bias = fields.flag("attention_bias", False)
    norm = Part("layer_norm", {"eps": fields.number("rms_norm_eps")})
    heads = Heads(fields.size("hidden_size"), **grouped_heads(fields), qkv_bias=bias, out_bias=bias)
    position = rope(fields, heads.head_dim)
    if "frequencies" in position.arguments:
        raise CheckpointError(f"{fields.source} must have a rope_type default, got one that scales positions")
    fields.raw("input_jitter_noise")  # noise in training
    window = fields.size("sliding_window", default=None)
    fields.only(CHOSEN, 2)
    rule = {"jitter": fields.number("router_jitter_noise", zero=True)}
    experts = mixture(fields, "SparseMixerRouting", ffn_dim="intermediate_size", rule=rule)
    layers = [layer_spec(heads.mixer(position, window), experts, "pre", norm)]
    layout = stored_layout(tensors, HF_PHIMOE, HF_PHIMOE_STACKED)
    head_bias = fields.flag("lm_head_bias", False)
    return decoder(
        fields, layers * fields.layers("num_hidden_layers"), layout, norm=norm, head_bias=head_bias
    )


def normalised(fields: Fields) -> dict[str, Any]:
    """Whether the weights of the chosen experts sum to 1."""
    return {"normalised": fields.flag("norm_topk_prob", False)}


def _heads(fields: Fields, **others: Any) -> Heads:
    eps = fields.number("rms_norm_eps")
    return Heads(fields.size("hidden_size"), **grouped_heads(fields), norm_eps=eps, **others)


def _qwen_moe(
    fields: Fields, tensors: Tensors, heads: Heads, windows: list[int | None], **shared: Any
) -> Reading:
    """The reading of a decoder with mixtures of experts in some layers.

    Args:
        fields: the configuration.
        tensors: the checkpoint's tensors.
        heads: attention heads of each layer.
        windows: number of visible keys in each layer; None for no limit.
        shared: the shared expert, as arguments of `MixtureOfExperts`.
    """
    position = rope(fields, heads.head_dim)
    sparse = sparse_layers(fields, len(windows))
    experts = mixture(fields, "SoftmaxRouting", rule=normalised(fields), **shared)
    dense = gated_ffn(fields)
    layers = [
        layer_spec(heads.mixer(position, window), experts if is_sparse else dense, "pre", heads.norm())
        for window, is_sparse in zip(windows, sparse, strict=True)
    ]
    layout = stored_layout(tensors, HF_QWEN2_MOE, HF_QWEN2_MOE_STACKED)
    return decoder(fields, layers, layout, norm=heads.norm())


HEADS = decoder_heads("score")
FAMILIES = (
    Family("hf.mixtral", ("mixtral",), read_mixtral, HEADS),
    Family("hf.qwen2_moe", ("qwen3_moe",), read_qwen3_moe, HEADS),
    Family("hf.qwen2_moe", ("qwen2_moe",), read_qwen2_moe, HEADS),
    Family("hf.qwen2_moe", ("olmoe",), read_olmoe),
    Family("hf.phimoe", ("phimoe",), read_phimoe, HEADS[:1]),
)
