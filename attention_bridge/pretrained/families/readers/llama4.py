"""Reader of Llama 4's text model: chunked attention, layers without rotary positions, experts with scaled inputs."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import FULL, grouped_heads, layer_types
from attention_bridge.pretrained.families.decoder_reading import decoder
from attention_bridge.pretrained.families.describe import layer_spec
from attention_bridge.pretrained.families.expert_reading import mixture
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_llama4 import HF_LLAMA4

CHUNKED = "chunked_attention"


def read_llama4(fields: Fields, tensors: Tensors) -> Reading:
    """Read the configuration of Llama 4's text model (Meta 2025)."""
    fields.raw("for_llm_compressor")  # the reference does not read it
    num_layers = fields.layers("num_hidden_layers")
    step = fields.size("no_rope_layer_interval")
    turned = _numbers(fields, "no_rope_layers") or [int((n + 1) % step != 0) for n in range(num_layers)]
    plain = [CHUNKED if each else FULL for each in turned]
    kinds = layer_types(fields, num_layers, fields.raw("layer_types", default=plain), (CHUNKED, FULL))
    if len(turned) < num_layers:
        raise CheckpointError(
            f"{fields.source} must have no_rope_layers for {num_layers} layers, got {turned}"
        )
    every = fields.size("interleave_moe_layer_step")
    mixed = _numbers(fields, "moe_layers")
    mixed = list(range(every - 1, num_layers, every)) if mixed is None else mixed
    activation = fields.word("hidden_act", words=ACTIVATIONS)
    ffn_dim = fields.size("intermediate_size_mlp")
    dense = Part("GatedFeedForward", {"ffn_dim": ffn_dim, "activation": activation})
    experts = mixture(
        fields,
        "SigmoidRouting",
        ffn_dim="intermediate_size",
        experts=("num_local_experts",),
        rule={"biased": False, "normalised": False},
        shared_dim=fields.size("intermediate_size"),
        scales_input=True,
    )
    norm = Part("rms_norm", {"eps": fields.number("rms_norm_eps")})
    mixers = _mixers(fields)
    layers = [
        layer_spec(mixers(bool(rotary), kind), experts if n in mixed else dense, "pre", norm)
        for n, (rotary, kind) in enumerate(zip(turned, kinds, strict=False))
    ]
    return decoder(fields, layers, HF_LLAMA4, norm=norm)


def _mixers(fields: Fields) -> Any:
    """A function of whether positions are rotary and of the kind of a layer that describes its attention."""
    sizes, eps = grouped_heads(fields), fields.number("rms_norm_eps")
    given = {**sizes, "bias": fields.flag("attention_bias", False)}
    chunk = fields.size("attention_chunk_size", default=None)
    normalised = fields.flag("use_qk_norm", True)
    position = rope(fields, sizes["head_dim"], interleaved=True)
    tuned = fields.flag("attn_temperature_tuning", True)
    heat = (fields.number("attn_scale", zero=True), float(fields.size("floor_scale")), 1.0)
    still = Part("RotaryEmbedding", {"head_dim": sizes["head_dim"], "rotary_dim": 2, "frequencies": (0.0,)})
    warm = Part(still.name, {**still.arguments, "temperature": heat}) if tuned else None
    if normalised and position.arguments.get("amplitude", 1.0) != 1.0:
        raise CheckpointError(
            f"{fields.source} must have use_qk_norm false for rotary positions with an amplitude, got true"
        )

    def mixer(rotary: bool, kind: str) -> Part:
        arguments = {**given, "position": position if rotary else warm}
        if kind == FULL and rotary and normalised:
            raise CheckpointError(
                f"{fields.source} must have layer_types {CHUNKED} for layers with rotary positions and "
                f"use_qk_norm, got {FULL}"
            )
        if kind == FULL:
            return Part("GroupedQueryAttention", arguments)
        if chunk is None:
            raise CheckpointError(f"{fields.source} must have an attention_chunk_size, got none")
        norms = {"qk_norm_eps": eps} if rotary and normalised else {}
        return Part("ChunkedAttention", {**arguments, "chunk_size": chunk, **norms})

    return mixer


def _numbers(fields: Fields, name: str) -> list[int] | None:
    """A list of whole numbers; None if there is none."""
    found = fields.raw(name)
    if found is None:
        return None
    if not isinstance(found, list) or any(type(each) is not int or each < 0 for each in found):
        raise CheckpointError(f"{fields.source} must have whole numbers {name}, got {shown(found)}")
    return found


FAMILIES = (Family("hf.llama4", ("llama4_text",), read_llama4),)
