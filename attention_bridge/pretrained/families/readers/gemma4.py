"""Reader of the text model of Gemma 4 (Google 2026)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import FULL, WINDOWED, layer_types
from attention_bridge.pretrained.families.decoder_reading import decoder
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.layouts.hf_gemma4 import HF_GEMMA4, HF_GEMMA4_EXPERTS

ROPE = {
    WINDOWED: {"rope_type": "default", "rope_theta": 10000.0},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}


def read_gemma4(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of Gemma 4's text model.

    The last layers attend to the keys and values of earlier ones; each layer reads a vector of the token of its own.
    """
    fields.only("use_bidirectional_attention", None, "vision")  # "vision" concerns images alone
    kinds = _kinds(fields)
    sources, sizes = kv_layers(fields, kinds), _sizes(fields, kinds)
    eps, window = fields.number("rms_norm_eps"), fields.size("sliding_window")
    given = (
        fields
        if fields.raw("rope_parameters") is not None
        else Fields({"rope_parameters": ROPE}, fields.source)
    )
    bias, ffn_dim = fields.flag("attention_bias", False), fields.size("intermediate_size")
    wide = 2 if fields.flag("use_double_wide_mlp", False) else 1
    same = fields.flag("attention_k_eq_v", False)
    activation = fields.word("hidden_activation", words=ACTIVATIONS)
    dim = fields.whole("hidden_size_per_layer_input")
    vocab_size = fields.size("vocab_size_per_layer_input")
    inputs: dict[str, Any] = {"output_scale": True}
    if dim:
        inputs["token_input"] = Part("TokenInput", {"activation": activation, "eps": eps})
    experts = _experts(fields)
    layers = []
    for kind, source, each in zip(kinds, sources, sizes, strict=True):
        options: dict[str, Any] = {"shares_kv": True} if source is not None else {"value_norm": True}
        if same and kind == FULL and source is None:
            options["keys_as_values"] = True
        heads = Heads(
            fields.size("hidden_size"),
            **each,
            qkv_bias=bias,
            out_bias=bias,
            scale=1.0,
            qk_norm=True,
            norm_eps=eps,
            others=options,
        )
        mixer = heads.mixer(rope(given, each["head_dim"], layers=kind), window if kind == WINDOWED else None)
        width = ffn_dim * (1 if source is None else wide)
        ffn = Part("GatedFeedForward", {"ffn_dim": width, "activation": activation})
        if experts is not None:
            ffn = Part("DenseAndExperts", {"dense_dim": width, "activation": activation, **experts})
        shared = {} if source is None else {"kv_layer": source}
        arrangement = "sandwich" if experts is None else "sandwich_mixer"
        layers.append(layer_spec(mixer, ffn, arrangement, heads.norm(), **shared, **inputs))
    reading = decoder(
        fields,
        layers,
        without_shared(HF_GEMMA4 if experts is None else HF_GEMMA4_EXPERTS, sources),
        norm=heads.norm(),
        tied=True,
        embed_scale=fields.size("hidden_size") ** 0.5,
        logit_softcap=fields.number("final_logit_softcapping", default=None),
        **(
            {"layer_embedding": Part("LayerEmbedding", {"dim": dim, "vocab_size": vocab_size, "eps": eps})}
            if dim
            else {}
        ),
    )
    return reading


def _experts(fields: Fields) -> dict[str, Any] | None:
    """The experts of each layer, as arguments of `DenseAndExperts`; None for none."""
    names = ("num_experts", "top_k_experts", "moe_intermediate_size")
    if not fields.flag("enable_moe_block", False):
        fields.raw(*names)
        return None
    count, chosen, ffn_dim = (fields.size(name) for name in names)
    if chosen > count:
        raise CheckpointError(
            f"{fields.source} must have top_k_experts of at most num_experts, got {chosen} and {count}"
        )
    eps = fields.number("rms_norm_eps")
    return {"ffn_dim": ffn_dim, "num_experts": count, "num_chosen": chosen, "eps": eps}


def kv_layers(fields: Fields, kinds: Sequence[str]) -> list[int | None]:
    """The layer whose keys and values each layer attends to: the last of its kind with its own; None for its own."""
    shared = fields.whole("num_kv_shared_layers", default=0)
    own = kinds[: max(len(kinds) - shared, 0)]
    if missing := sorted({*kinds} - {*own}):
        raise CheckpointError(
            f"{fields.source} must have num_kv_shared_layers that leaves a layer of each kind with keys and values, "
            f"got {shared} and no {missing[0]}"
        )
    last = {kind: len(own) - 1 - own[::-1].index(kind) for kind in kinds}
    return [None if n < len(own) else last[kind] for n, kind in enumerate(kinds)]


def without_shared(layout: Layout, sources: Sequence[int | None]) -> Layout:
    """The layout, which drops the unused keys and values of layers that attend to another layer's."""
    unused = tuple(
        Dropped(
            f"model.layers.{n}.self_attn.{name}.{{rest}}", "the layer attends to the keys of an earlier one"
        )
        for n, source in enumerate(sources)
        if source is not None
        for name in ("k_proj", "v_proj", "k_norm", "v_norm")
    )
    return replace(layout, dropped=(*layout.dropped, *unused))


def _kinds(fields: Fields) -> tuple[str, ...]:
    """The kinds of the layers; the last one has no window."""
    count = fields.layers("num_hidden_layers")
    default = [WINDOWED if (n + 1) % 6 else FULL for n in range(count)]
    kinds = layer_types(fields, count, fields.raw("layer_types", default=default), (FULL, WINDOWED))
    return (*kinds[:-1], FULL)


def _sizes(fields: Fields, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """The heads of each layer: in `per_layer_config` by its index, or, in older files, in two fields."""
    num_heads = fields.size("num_attention_heads")
    plain = {"head_dim": fields.size("head_dim"), "num_kv_heads": fields.size("num_key_value_heads")}
    wide = {**plain, "head_dim": fields.size("global_head_dim", default=512)}
    kv_heads = fields.size("num_global_key_value_heads", default=None)
    if kv_heads is not None and fields.flag("attention_k_eq_v", False):
        wide["num_kv_heads"] = kv_heads
    if fields.raw("per_layer_config") is None:
        found = [wide if kind == FULL else plain for kind in kinds]
    else:
        changes = _changes(fields, len(kinds))
        found = [_overridden(fields, changes[n], plain) if n in changes else plain for n in range(len(kinds))]
    for each in found:
        fields.divides("num_attention_heads", num_heads, "num_key_value_heads", each["num_kv_heads"])
    return [{"num_heads": num_heads, **each} for each in found]


def _changes(fields: Fields, num_layers: int) -> dict[int, object]:
    """The changed fields of layers, by the index of the layer, which files write as text such as `"05"`."""
    given = fields.raw("per_layer_config")
    right = isinstance(given, Mapping) and all(re.fullmatch("[0-9]{1,5}", str(n)) for n in given)
    found = {int(n): x for n, x in given.items()} if right else {}
    if not right or len(found) < len(given) or any(n >= num_layers for n in found):
        raise CheckpointError(
            f"{fields.source} must have per_layer_config by the index of a layer, below {num_layers}, "
            f"got {shown(given)}"
        )
    return found


def _overridden(fields: Fields, changed: object, plain: dict[str, int]) -> dict[str, int]:
    below = Fields({"per_layer_config": changed}, fields.source).part("per_layer_config")
    found = {
        "head_dim": below.size("head_dim", default=plain["head_dim"]),
        "num_kv_heads": below.size("num_key_value_heads", default=plain["num_kv_heads"]),
    }
    below.refuse_unread("fields that are not understood")
    return found


FAMILIES = (Family("hf.gemma4", ("gemma4_text",), read_gemma4),)
