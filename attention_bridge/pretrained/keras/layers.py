"""Attention layers in Keras files: check for missing variables, head sizes and paths."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from attention_bridge.checkpoints.duplicate_keys import unique
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.layout import Layout, entry_for
from attention_bridge.weights.layouts.keras_mha import LEAVES, PARTS
from attention_bridge.weights.leaves import Spec

FIRST = {"keras.mha": "layers.multi_head_attention", "keras.gqa": "layers.grouped_query_attention"}
AXES = "keras.axes"  # metadata key of a file that was converted from Keras
ALONE = "."  # path of a layer that is not part of a model
NEEDED = ("query", "key", "value", "attention_output")
GROUPED = "grouped_query_attention"


class Heads(NamedTuple):
    """The head sizes of an attention layer, from its kernels.

    Attributes:
        queries, keys: number of query heads, and of key and value heads.
        key_dim, value_dim: features of a key head, and of a value head.
        bias, gate: whether the layer has biases, and a gate.
    """

    queries: int
    keys: int
    key_dim: int
    value_dim: int
    bias: bool
    gate: bool


def is_keras(layout: Layout) -> bool:
    """Whether a layout is one of Keras' own."""
    return layout.name in FIRST


def layers(path: Path, specs: Mapping[str, Spec], layout: Layout) -> dict[str, Heads]:
    """Find the attention layers among tensors; the keys are the paths before their projections.

    Args:
        path: the file, for errors.
        specs: shape and dtype of each tensor, by its name in `layout` or in a file of this layout.
        layout: one of Keras' own layouts.

    Raises:
        CheckpointError: a layer lacks a tensor, has an extra one, or its shapes are inconsistent.
    """
    found: dict[str, dict[str, Spec]] = {}
    others: dict[str, str] = {}
    for given, spec in specs.items():
        name = layout.canonical(given)
        *above, part, leaf = "", *name.split(".")
        if part in PARTS and leaf in LEAVES:
            tensors = found.setdefault(".".join(above[1:]), {})
            if f"{part}.{leaf}" in tensors:
                raise CheckpointError(f"{path} holds two tensors for {name}, one of them {given}")
            tensors[f"{part}.{leaf}"] = spec
        elif not entry_for(name, layout.dropped):
            others[name] = given
    for name, given in others.items():
        for layer in found:
            if not layer or name.startswith(f"{layer}."):
                raise CheckpointError(
                    f"{path} has {given}, which no attention layer of Keras has, in {shown(layer)}"
                )
    return {layer: _heads(path, layer, tensors) for layer, tensors in found.items()}


def axes(heads: Mapping[str, Heads]) -> dict[str, int]:
    """Sizes of axes that shapes in the canonical layout do not give, with the layers' paths."""
    sizes: dict[str, int] = {}
    for layer, cut in heads.items():
        before = f"{layer}." if layer else ""
        sizes |= {f"{before}d": cut.key_dim, f"{before}v": cut.value_dim}
    return sizes


def read_axes(path: Path, metadata: Mapping[str, Any]) -> dict[str, int]:
    """Read the axis sizes from the metadata of a file that was converted from Keras; empty for other files.

    Raises:
        CheckpointError: the metadata entry is malformed.
    """
    if not isinstance(text := metadata.get(AXES), str):
        return {}
    try:
        sizes = json.loads(text, object_pairs_hook=unique)
        good = all(type(size) is int and size > 0 for size in sizes.values())
    except (ValueError, AttributeError, RecursionError):
        good = False
    if not good:
        raise CheckpointError(f"{path} is damaged: its metadata {AXES} must be sizes by name")
    return dict(sizes)


def placed(
    path: Path, specs: Mapping[str, Spec], layout: Layout, places: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """The names of tensors in a Keras file, and the paths of its attention layers.

    Args:
        path: file to write, for errors.
        specs: shape and dtype of each tensor, by name.
        layout: one of Keras' own layouts.
        places: path in the Keras model for each module path. The module path "" means a module without a path, and the
            Keras path `.` means a layer that is saved by itself.

    Raises:
        CheckpointError: a layer is incomplete, not of the layout's class, or has an impossible path.
    """
    places = {"": FIRST[layout.name], **places}
    names = {name: _moved(name, places) for name in specs}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise CheckpointError(
            f"{path} cannot be written: two tensors would be called {layout.in_file(twice[0])}"
        )
    heads = layers(path, {names[name]: spec for name, spec in specs.items()}, layout)
    for layer, cut in heads.items():
        _check_path(path, layer)
        _check_class(path, layer, cut, layout)
    return {name: layout.in_file(moved) for name, moved in names.items()}, [*map(shown, heads)]


def shown(layer: str) -> str:
    """The path of a layer in a file, for messages."""
    return layer.replace(".", "/") or "the layer itself"


def _moved(name: str, places: Mapping[str, str]) -> str:
    """Replace the longest module path of a name that `places` lists by its path in the Keras model."""
    for before in sorted(places, key=len, reverse=True):
        stem = f"{before}." if before else ""
        if name.startswith(stem) and (before or name.partition(".")[0] in PARTS):
            place = places[before].strip("/").replace("/", ".")
            return name[len(stem) :] if place == ALONE else f"{place}.{name[len(stem) :]}"
    return name


def _check_path(path: Path, layer: str) -> None:
    for part in layer.split(".") if layer else ():
        if not part.isidentifier():
            raise CheckpointError(
                f"{path} cannot be written: no layer of a Keras model has the path {shown(layer)}, because {part!r} is "
                f"not a name of an attribute or class; give its path with --place {layer}={shown(FIRST['keras.mha'])}"
            )


def _check_class(path: Path, layer: str, cut: Heads, layout: Layout) -> None:
    last = layer.rpartition(".")[2]
    grouped = last.startswith(GROUPED) or (
        layout.name == "keras.gqa" and not last.startswith("multi_head_attention")
    )
    if not grouped and cut.queries != cut.keys:
        raise CheckpointError(
            f"{path} cannot be written: {shown(layer)} has {cut.queries} heads of queries and {cut.keys} of keys, as "
            "GroupQueryAttention has: write it with --to keras.gqa"
        )
    if grouped and cut.key_dim != cut.value_dim:
        raise CheckpointError(
            f"{path} cannot be written: {shown(layer)} has keys of {cut.key_dim} features and values of "
            f"{cut.value_dim}, which GroupQueryAttention cannot have"
        )


def _heads(path: Path, layer: str, tensors: Mapping[str, Spec]) -> Heads:
    parts = [
        part for part in PARTS if part in NEEDED or f"{part}.kernel" in tensors or f"{part}.bias" in tensors
    ]
    bias = any(f"{part}.bias" in tensors for part in parts)
    for part in parts:
        for leaf in LEAVES:
            if f"{part}.{leaf}" not in tensors and (leaf == "kernel" or bias):
                raise CheckpointError(
                    f"{path} lacks the {leaf} of {part} ({PARTS[part]}_dense/vars/{LEAVES[leaf]}) in {shown(layer)}"
                )
    for name, spec in tensors.items():
        if spec.dtype.kind in "biuc":
            raise CheckpointError(
                f"{path} has {name} of {shown(layer)} in {spec.dtype}: it is quantised or not a weight"
            )
    kernels = {part: tensors[f"{part}.kernel"].shape for part in parts}
    for part, shape in kernels.items():
        if len(shape) != 3:
            expected = (
                "(heads, features, output)" if part == "attention_output" else "(input, heads, features)"
            )
            raise CheckpointError(
                f"{path} has a kernel of {part} in {shown(layer)} of shape {shape}, but it must be {expected}: an "
                "output of several axes has no place in the mirrors"
            )
    (_, queries, key_dim), (_, keys, features), (_, values, value_dim) = (
        kernels[part] for part in ("query", "key", "value")
    )
    wanted = {
        "query.bias": (queries, key_dim),
        "key.bias": (keys, key_dim),
        "value.bias": (values, value_dim),
        "gate.bias": (queries, value_dim),
        "attention_output.bias": kernels["attention_output"][2:],
    }
    agree = (features, keys, kernels["attention_output"][:2]) == (key_dim, values, (queries, value_dim))
    agree = agree and ("gate" not in kernels or kernels["gate"][1:] == (queries, value_dim))
    agree = agree and all(tensors[name].shape == shape for name, shape in wanted.items() if name in tensors)
    if not agree or not keys or queries % keys:
        told = ", ".join(f"{name} {spec.shape}" for name, spec in tensors.items())
        raise CheckpointError(
            f"{path} has tensors in {shown(layer)} that do not fit one attention layer: {told}"
        )
    return Heads(queries, keys, key_dim, value_dim, bias, "gate" in kernels)
