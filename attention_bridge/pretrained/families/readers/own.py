"""The mirrors' own configurations: conversion of a model's dataclass to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention_bridge.catalogue.part import DESCRIPTIONS, Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.before import READERS, read_before, with_own_heads
from attention_bridge.pretrained.families.declarations import configurations, models, parts
from attention_bridge.pretrained.families.describe import as_part, language_model
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import LARGEST, MOST_LAYERS, OWN_ACTIVATIONS, Fields
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.jax_attention import JAX_ATTENTION
from attention_bridge.weights.layouts.torch_attention import TORCH_ATTENTION

MODEL_TYPE = "attention_bridge"
JAX_LEAVES = ("embedding", "kernel", "scale")  # names of parameters in the JAX mirror alone
WORDS = {
    "conv_norm": ("first", "each"),
    "arrangement": (
        "pre",
        "pre_feed_forward",
        "post",
        "sandwich",
        "output",
        "parallel",
        "parallel_shared_norm",
    ),
    "kernel": ("elu", "relu", "softmax"),
    "norm_order": ("after_gate", "before_gate"),
}
# Arguments that the model supplies, by the role of a part.
KNOWN = {
    "mixer": ("embed_dim", "is_causal"),
    "attention_mixer": ("embed_dim", "is_causal"),
    "recurrent_mixer": ("embed_dim", "is_causal"),
    "ffn": ("embed_dim",),
    "norm": ("dim",),
    "token_input": ("embed_dim", "input_dim"),
    "layer_embedding": ("embed_dim", "num_layers"),
    "embedding": ("in_dim", "embed_dim", "image_size"),
    "embedding_norm": ("dim",),
    "output_norm": ("dim",),
    "embedding_position": ("embed_dim",),
    "head": ("embed_dim", "vocab_size"),
    "pooling": ("embed_dim",),
    "text_pooling": ("embed_dim",),
}
ANY_NUMBER = ("scale", "shift")
FROM_ZERO = (
    "bos",
    "decoder_start",
    "dropout",
    "end_token",
    "eos",
    "first_position",
    "kv_layer",
    "min_step",
    "mask_token",
    "eps",
    "norm_eps",
    "num_dense_layers",
    "num_prefix",
    "num_registers",
    "num_shared",
    "num_sinks",
    "num_types",
    "pad",
    "shift",
    "skip",
    "uncounted_token",
)  # others are positive


def own_config(model: Any) -> dict[str, Any]:
    """The content of `config.json` for a model of the mirrors."""
    return {"model_type": MODEL_TYPE, "model": type(model).__name__, "config": as_json(as_part(model.config))}


def read_own(fields: Fields, tensors: Tensors) -> Reading:
    """Read a mirror's own configuration, which `save_pretrained` writes by default."""
    name, kinds = fields.raw("model"), models()
    if not isinstance(name, str) or name not in {*kinds, *READERS}:
        raise CheckpointError(f"{fields.source} must have a model of {', '.join(kinds)}, got {shown(name)}")
    config = fields.part("config")
    if name in READERS:
        return Reading(language_model(read_before(config, name)), TORCH_ATTENTION)
    if name == "RelativeEncoderDecoder":
        config = with_own_heads(config)
    layout = JAX_ATTENTION if any(tensors.ends_with(f".{leaf}") for leaf in JAX_LEAVES) else TORCH_ATTENTION
    return Reading(Part(name, {"config": _as_part(config, kinds[name])}), layout)


def as_json(value: Any) -> Any:
    """Convert a description to JSON types for `config.json`."""
    if isinstance(value, tuple):
        return [as_json(each) for each in value]
    if not isinstance(value, Part):
        return value
    named = {name: as_json(each) for name, each in value.arguments.items()}
    if value.name == "TaskSpec":  # its backbone may be of several classes
        named["backbone"] = {"class": value.arguments["backbone"].name, **named["backbone"]}
    if value.name == "ContrastiveConfig":  # its text tower, too
        named["text"] = {"class": value.arguments["text"].name, **named["text"]}
    if value.name in (*DESCRIPTIONS, "SpecialTokens"):
        return named
    if value.name in configurations():
        return {"class": value.name, **named}
    return {"name": value.name, "arguments": named}


def _as_part(fields: Fields, kind: str) -> Part:
    """Read a configuration; check the fields against the types and ranges of its dataclass."""
    fields.only("class", kind)
    arguments = {}
    for name, field in configurations()[kind].items():
        if name in fields.given or field.required:
            arguments[name] = _value(fields, name, field.kind)
    fields.refuse_unread(f"fields that {kind} has not")
    return Part(kind, arguments)


def _value(fields: Fields, name: str, kind: str) -> Any:
    """The value of a field, checked against its annotation."""
    if kind.endswith(" | None") and name in fields.given and fields.raw(name) is None:
        return None
    kind = kind.removesuffix(" | None")
    if name not in fields.given or fields.given[name] is None:
        raise CheckpointError(f"{fields.source} must have {name}, got {shown(fields.given.get(name))}")
    if kind == "int | tuple[int, int]":
        if isinstance(fields.raw(name), list):
            return _pair(fields, name)
        kind = "int"
    if kind == "int":
        most = MOST_LAYERS if name.endswith("_layers") else LARGEST
        return fields.whole(name, least=0 if name in FROM_ZERO else 1, most=most)
    if kind == "float":
        number = fields.number(name, zero=name in FROM_ZERO)
        if name == "dropout" and number >= 1:
            raise CheckpointError(f"{fields.source} must have dropout below 1, got {shown(number)}")
        return number
    if kind == "bool":
        return fields.flag(name, False)
    if kind == "str":
        words = WORDS.get(name, OWN_ACTIVATIONS)
        return fields.word(name, words={word: word for word in words})
    if kind.startswith("tuple["):
        return _values(fields, name, kind.removeprefix("tuple[").removesuffix("]"))
    if kind.startswith("Sequence["):
        return _values(fields, name, kind.removeprefix("Sequence[").removesuffix("]") + ", ...")
    if kind in configurations():
        return _as_part(fields.part(name), kind)
    if " | " in kind:
        part = fields.part(name)
        return _as_part(part, part.word("class", words={each: each for each in kind.split(" | ")}))
    return _described(fields.part(name), name)


def _pair(fields: Fields, name: str) -> tuple[int, ...]:
    """Two numbers of at least 0, such as the keys of a window before and after the query."""
    given = fields.raw(name)
    if len(given) != 2:
        raise CheckpointError(f"{fields.source} must have a pair of numbers {name}, got {shown(given)}")
    return tuple(Fields({name: each}, fields.source).whole(name) for each in given)


def _values(fields: Fields, name: str, kinds: str) -> tuple[Any, ...]:
    """A tuple, of fixed or of any length, by its annotation."""
    given, (kind, *others) = fields.raw(name), kinds.split(", ")
    count = len(given) if others == ["..."] and isinstance(given, list) else 1 + len(others)
    if not isinstance(given, list) or len(given) != count or count > MOST_LAYERS:
        raise CheckpointError(f"{fields.source} must have a list {name}: {kinds}, got {shown(given)}")
    if name in ("layers", "stages") and not given:
        raise CheckpointError(f"{fields.source} must have a {name[:-1]}, got none")
    return tuple(_value(Fields({name: each}, fields.source), name, kind) for each in given)


def _described(fields: Fields, where: str) -> Part:
    """Read a part of a description; check its arguments against the types that its class declares."""
    name = fields.raw("name")
    if not isinstance(name, str) or name not in parts():
        raise CheckpointError(
            f"{fields.source} must have the name of a class of the mirrors, got {shown(name)}"
        )
    arguments = Fields({}, fields.source) if fields.raw("arguments") is None else fields.part("arguments")
    fields.refuse_unread("fields that a part has not")
    declared = parts()[name]
    given = Fields(arguments.given, fields.source)  # the message contains the word arguments already
    given.refuse_unread(f"arguments that {name} does not take", declared)
    known = KNOWN.get(where, ())
    found = {}
    for key, declaration in declared.items():
        if key in arguments.given or (declaration.required and key not in known):
            found[key] = _argument(arguments, key, declaration.kind)
    return Part(name, found)


def _argument(fields: Fields, name: str, kind: str) -> Any:
    """An argument of a part: a value of the declared type, or a nested part."""
    if isinstance(fields.given.get(name), Mapping):
        return _described(fields.part(name), name)
    if name in ANY_NUMBER and "int" not in kind and fields.given.get(name) is not None:
        return fields.finite(name)
    return _value(fields, name, kind)


FAMILIES = (Family("torch_attention", (MODEL_TYPE,), read_own),)
