"""Attention layers in Keras files: check that no variable is missing, and read their head sizes and paths."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from attention_bridge.checkpoints.unique import unique
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.layout import Layout, entry_for
from attention_bridge.weights.layouts.keras_mha import LEAVES, PARTS
from attention_bridge.weights.leaves import Spec

FIRST = {"keras.mha": "layers.multi_head_attention", "keras.gqa": "layers.grouped_query_attention"}
AXES = "keras.axes"  # in the metadata of what a conversion from Keras writes
ALONE = "."  # the path of a layer that is no part of a model
NEEDED = ("query", "key", "value", "attention_output")
GROUPED = "grouped_query_attention"


class Heads(NamedTuple):
    """How the heads of an attention layer are cut, as its kernels show.

    Attributes:
        queries, keys: how many heads of queries, and of keys and values.
        key_dim, value_dim: features of a key, and of a value.
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
    """The attention layers among tensors, by the paths before their projections.

    Args:
        path: the file, for errors.
        specs: shape and dtype of each tensor by its name in `layout` or in a file of it.
        layout: one of Keras' own.

    Raises:
        CheckpointError: a layer lacks a tensor, has one too many, or its shapes contradict each other.
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
    """The sizes of axes that the hub's shapes do not show, by the paths of the layers."""
    sizes: dict[str, int] = {}
    for layer, cut in heads.items():
        before = f"{layer}." if layer else ""
        sizes |= {f"{before}d": cut.key_dim, f"{before}v": cut.value_dim}
    return sizes


def read_axes(path: Path, metadata: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that a conversion from Keras left beside the tensors that it wrote.

    Raises:
        CheckpointError: something else stands there.
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
    """What a file calls the tensors of `layout`, and the paths of its attention layers.

    Args:
        path: the file to write, for errors.
        specs: shape and dtype of each tensor.
        layout: one of Keras' own.
        places: paths in the Keras model by paths of the given modules; a module without one is called "". The path `.`
            is that of a layer which is saved by itself.

    Raises:
        CheckpointError: a layer is not whole or not of the layout's class, or has no possible path.
    """
    places = {"": FIRST[layout.name], **places}
    names = {name: _moved(name, places) for name in specs}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise CheckpointError(
            f"{path} cannot be written: two tensors would stand at {layout.in_file(twice[0])}"
        )
    heads = layers(path, {names[name]: spec for name, spec in specs.items()}, layout)
    for layer, cut in heads.items():
        _check_path(path, layer)
        _check_class(path, layer, cut, layout)
    return {name: layout.in_file(moved) for name, moved in names.items()}, [*map(shown, heads)]


def shown(layer: str) -> str:
    """The path of a layer as it stands in a file, for messages."""
    return layer.replace(".", "/") or "the layer itself"


def _moved(name: str, places: Mapping[str, str]) -> str:
    """The name with the path that is given for the module it lies in, the longest that fits."""
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
                f"{path} cannot be written: no layer of a Keras model stands at {shown(layer)}, for {part!r} names no "
                f"attribute or class; say where it does with --place {layer}={shown(FIRST['keras.mha'])}"
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
                f"{path} has {name} of {shown(layer)} in {spec.dtype}: it is quantised, or no weight"
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
            f"{path} has tensors in {shown(layer)} that are of no one attention layer: {told}"
        )
    return Heads(queries, keys, key_dim, value_dim, bias, "gate" in kernels)
