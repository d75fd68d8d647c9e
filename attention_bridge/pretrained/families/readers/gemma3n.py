"""Reader of the text model of Gemma 3n (Google 2025), whose residual stream has several parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import FULL, WINDOWED, grouped_heads, layer_types
from attention_bridge.pretrained.families.decoder_reading import decoder
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.readers.gemma4 import kv_layers, without_shared
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.layouts.hf_gemma3n import HF_GEMMA3N

# The base of the rotary positions of each kind of layers: its older field, and its default.
THETAS = {FULL: ("rope_theta", 1_000_000.0), WINDOWED: ("rope_local_base_freq", 10_000.0)}


def read_gemma3n(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of Gemma 3n's text model.

    The last layers attend to the keys and values of earlier ones. In training, the reference bounds some coefficients
    by `altup_coef_clip`.
    """
    fields.raw("altup_coef_clip")
    num_layers, bias = fields.layers("num_hidden_layers"), fields.flag("attention_bias", False)
    plain = [WINDOWED if (n + 1) % 5 else FULL for n in range(num_layers)]
    kinds = layer_types(fields, num_layers, fields.raw("layer_types", default=plain), (FULL, WINDOWED))
    sources, eps = kv_layers(fields, kinds), fields.number("rms_norm_eps")
    sizes, window = grouped_heads(fields), fields.size("sliding_window")
    positions = {kind: _rope(fields, kind, sizes["head_dim"]) for kind in kinds}
    streams, updates = _updates(fields, eps)
    residual = Part("LearnedAugmentedResidual", {"rank": fields.size("laurel_rank"), "eps": eps})
    inputs = {"activation": fields.word("hidden_activation", words=ACTIVATIONS), "eps": eps}
    layers = []
    for kind, source, ffn in zip(kinds, sources, _networks(fields, num_layers), strict=True):
        own: dict[str, Any] = {"value_norm": True} if source is None else {"shares_kv": True}
        heads = Heads(
            fields.size("hidden_size"),
            **sizes,
            qkv_bias=bias,
            out_bias=bias,
            scale=1.0,
            qk_norm=True,
            norm_eps=eps,
            others=own,
        )
        mixer = heads.mixer(positions[kind], window if kind == WINDOWED else None)
        others: dict[str, Any] = {} if source is None else {"kv_layer": source}
        others |= {"laurel": residual, "updates": updates, "token_input": Part("TokenInput", inputs)}
        layers.append(layer_spec(mixer, ffn, "sandwich_laurel", heads.norm(), **others))
    vectors = {
        "dim": fields.size("hidden_size_per_layer_input"),
        "vocab_size": fields.size("vocab_size_per_layer_input"),
        "eps": eps,
    }
    return decoder(
        fields,
        layers,
        _layout(fields, without_shared(HF_GEMMA3N, sources)),
        norm=heads.norm(),
        tied=True,
        embed_scale=fields.size("hidden_size") ** 0.5,
        logit_softcap=fields.number("final_logit_softcapping"),
        layer_embedding=Part("LayerEmbedding", vectors),
        streams=streams,
    )


def _updates(fields: Fields, eps: float) -> tuple[Part, Part]:
    """The parts of the residual stream, and their updates in each layer."""
    count, active = fields.size("altup_num_inputs"), fields.whole("altup_active_idx")
    if active >= count:
        raise CheckpointError(
            f"{fields.source} must have altup_active_idx below altup_num_inputs, got {active} and {count}"
        )
    scaled = {} if fields.flag("altup_correct_scale", True) else {"scaled": False}
    updates = Part("AlternatingUpdates", {"active": active, "eps": eps, **scaled})
    return Part("ResidualStreams", {"num_streams": count}), updates


def _layout(fields: Fields, layout: Layout) -> Layout:
    """The layout; without `altup_correct_scale`, the reference has scales that it does not read."""
    if fields.flag("altup_correct_scale", True):
        return layout
    name = "model.layers.{n}.altup.correct_output_scale"
    rules = tuple(rule for rule in layout.rules if rule.theirs != name)
    return replace(layout, rules=rules, unused=(*layout.unused, Unused(name, "not read by the model")))


def _networks(fields: Fields, num_layers: int) -> list[Part]:
    """The feed-forward network of each layer; one with a share of closed gates is sparse."""
    widths = _each(fields, "intermediate_size", num_layers)
    plain = [0.95 if n < 10 < num_layers else 0.0 for n in range(num_layers)]
    shares = fields.raw("activation_sparsity_pattern", default=plain)
    if not isinstance(shares, list | tuple) or len(shares) != num_layers:
        raise CheckpointError(
            f"{fields.source} must have an activation_sparsity_pattern of {num_layers} numbers, got {shown(shares)}"
        )
    activation = fields.word("hidden_activation", words=ACTIVATIONS)
    found = []
    for width, share in zip(widths, shares, strict=True):
        if type(share) not in (int, float) or not 0.0 <= share < 1.0:
            raise CheckpointError(
                f"{fields.source} must have an activation_sparsity_pattern of numbers from 0 to below 1, "
                f"got {shown(share)}"
            )
        sizes = {"ffn_dim": width, "activation": activation}
        found.append(
            Part("SparseGatedFeedForward", {**sizes, "sparsity": float(share)})
            if share
            else Part("GatedFeedForward", sizes)
        )
    return found


def _each(fields: Fields, name: str, num_layers: int) -> list[int]:
    """A positive whole number for each layer, from one for all or from a list."""
    given = fields.raw(name)
    if not isinstance(given, list | tuple):
        return [fields.size(name)] * num_layers
    if len(given) != num_layers:
        raise CheckpointError(
            f"{fields.source} must have {name} for each of {num_layers} layers, got {shown(given)}"
        )
    return [Fields({name: each}, fields.source).size(name) for each in given]


def _rope(fields: Fields, kind: str, head_dim: int) -> Part:
    """The rotary embedding of the layers of a kind; each kind has a base of its own."""
    name, theta = THETAS[kind]
    given, older = fields.raw("rope_parameters", default={}), fields.raw("rope_scaling", default={})
    for each in (given, older):
        if not isinstance(each, Mapping):
            raise CheckpointError(f"{fields.source} must have rope_parameters with names, got {shown(each)}")
    if given.keys() - {FULL, WINDOWED}:
        raise CheckpointError(
            f"{fields.source} must have rope_parameters of {FULL} and {WINDOWED}, got {shown(given)}"
        )
    own = given.get(kind) or {}
    if not isinstance(own, Mapping):
        raise CheckpointError(f"{fields.source} must have {kind} with names, got {shown(own)}")
    own = {"rope_theta": fields.number(name, default=theta), **own, **(older if kind == FULL else {})}
    length = fields.raw("max_position_embeddings")
    return rope(Fields({"rope_parameters": own, "max_position_embeddings": length}, fields.source), head_dim)


FAMILIES = (Family("hf.gemma3n", ("gemma3n_text",), read_gemma3n),)
