"""The layers of trees of arrays, by the names and the number of axes of their leaves: Linen and Haiku.

An Equinox module is walked by the names of its types, whose tensors have PyTorch's axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attention_bridge.weights.rule import IDENTITY
from attention_bridge.weights.twins.layers import Layer, Leaf, joined, layer, space

WEIGHTS = {
    "kernel": "weight",
    "w": "weight",
    "embedding": "weight",
    "embeddings": "weight",
    "scale": "weight",
}
OTHERS = {"bias": "bias", "b": "bias", "offset": "bias", "mean": "running_mean", "var": "running_var"}
ROLES = WEIGHTS | OTHERS
HEADS = ("query", "key", "value")
EQUINOX = {
    "Linear": "linear",
    "Embedding": "embedding",
    "LayerNorm": "norm",
    "RMSNorm": "norm",
    "GroupNorm": "norm",
    "Conv": "convolution",
    "Conv1d": "convolution",
    "Conv2d": "convolution",
    "Conv3d": "convolution",
}


def tree_layers(leaves: Mapping[str, Any]) -> list[Layer]:
    """The layers of a Linen or Haiku tree, in the order of its leaves.

    Args:
        leaves: arrays by name, the path joined by dots or slashes.
    """
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for name in leaves:
        *above, leaf = (part for part in name.replace("/", ".").split(".") if part != "~")
        groups.setdefault(tuple(above), {})[leaf] = name
    found: list[Layer] = []
    attentions = {path[:-1] for path in groups if all((*path[:-1], role) in groups for role in HEADS)}
    for path, names in groups.items():
        shapes = {name: tuple(leaves[name].shape) for name in names.values()}
        if path[:-1] in attentions and path[-1] in (*HEADS, "out"):
            continue
        found += _group(path, names, {leaf: shapes[name] for leaf, name in names.items()})
    for path in sorted(attentions):
        found += _attention(path, groups, leaves)
    return found


def _attention(
    path: tuple[str, ...], groups: Mapping[tuple[str, ...], Mapping[str, str]], leaves: Mapping[str, Any]
) -> Iterable[Layer]:
    """Flax's attention: queries, keys and values with an axis of heads, and the output projection."""
    held = []
    for role in HEADS:
        for leaf, name in groups[*path, role].items():
            pattern, end = ("e h d -> (h d) e", "") if leaf == "kernel" else ("h d -> (h d)", " bias")
            held.append(Leaf(name, (f"{role}{end}",), pattern))
    shapes = {leaf.name: tuple(leaves[leaf.name].shape) for leaf in held}
    yield layer(path, "attention", held, shapes, "MultiHeadAttention")
    if (*path, "out") in groups:
        names = groups[*path, "out"]
        shapes = {name: tuple(leaves[name].shape) for name in names.values()}
        patterns = {"kernel": "h d e -> e (h d)", "bias": IDENTITY}
        last = [
            Leaf(names[leaf], (ROLES[leaf],), pattern) for leaf, pattern in patterns.items() if leaf in names
        ]
        yield layer((*path, "out"), "linear", last, shapes, "DenseGeneral")


def _group(
    path: tuple[str, ...], names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Iterable[Layer]:
    weight = next((leaf for leaf in names if leaf in WEIGHTS), None)
    if weight is None or not names.keys() <= ROLES.keys():
        for leaf, name in names.items():
            yield layer((*path, leaf), "parameter", [Leaf(name, ("value",))], {name: shapes[leaf]}, leaf)
        return
    kind, pattern = _kind(weight, shapes)
    leaves = [
        Leaf(name, (ROLES[leaf],), pattern if leaf == weight else _flat(shapes[leaf]))
        for leaf, name in sorted(names.items(), key=lambda item: item[0] != weight)
    ]
    yield layer(
        path, kind, leaves, {name: shapes[leaf] for leaf, name in names.items()}, path[-1] if path else kind
    )


def _kind(weight: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str]:
    """The kind of a layer and the pattern of its weight."""
    rank = len(shapes[weight])
    if weight in ("embedding", "embeddings"):
        return "embedding", IDENTITY
    if weight == "scale":
        return ("statistics norm" if "mean" in shapes else "norm"), IDENTITY
    if rank == 2:
        return "linear", "i o -> o i"
    axes = space(rank)
    return "convolution", f"{axes} i o -> o i {axes}"


def _flat(shape: tuple[int, ...]) -> str:
    names = joined(len(shape), "o")
    return f"{names} -> ({names})" if len(shape) > 1 else IDENTITY


def equinox_layers(module: Any, leaves: Mapping[str, Any]) -> list[Layer]:
    """The layers of an Equinox module, in the order of its fields."""
    found: list[Layer] = []
    taken: set[str] = set()

    def walk(node: Any, path: tuple[str, ...]) -> None:
        if _is_attention(node):
            parts = {f"{role}_proj": role for role in HEADS}
            held = [
                Leaf(name, (f"{role}{end}",))
                for part, role in parts.items()
                for leaf, end in (("weight", ""), ("bias", " bias"))
                if (name := ".".join((*path, part, leaf))) in leaves
            ]
            shapes = {leaf.name: tuple(leaves[leaf.name].shape) for leaf in held}
            found.append(layer(path, "attention", held, shapes, "MultiheadAttention"))
            taken.update(shapes)
            walk(node.output_proj, (*path, "output_proj"))
            return
        kind = EQUINOX.get(type(node).__name__) if type(node).__module__.startswith("equinox.nn") else None
        named = {leaf: ".".join((*path, leaf)) for leaf in ("weight", "bias")}
        own = {leaf: name for leaf, name in named.items() if name in leaves}
        if kind is not None and own:
            shapes = {name: tuple(leaves[name].shape) for name in own.values()}
            held = [Leaf(name, (leaf,), _vector(shapes[name], leaf)) for leaf, name in own.items()]
            found.append(layer(path, kind, held, shapes, type(node).__name__))
            taken.update(own.values())
            return
        for name, child in _children(node):
            walk(child, (*path, name))

    walk(module, ())
    for name, array in leaves.items():
        if name not in taken:
            path = tuple(name.split("."))
            found.append(layer(path, "parameter", [Leaf(name, ("value",))], {name: array.shape}, path[-1]))
    return found


def _is_attention(node: Any) -> bool:
    return type(node).__module__.startswith("equinox.nn") and type(node).__name__ == "MultiheadAttention"


def _vector(shape: tuple[int, ...], leaf: str) -> str:
    """The pattern of a bias with axes of length 1 behind it."""
    if leaf == "bias" and len(shape) > 1:
        ones = " ".join(["o", *(f"one{number}" for number in range(len(shape) - 1))])
        return f"{ones} -> ({ones})"
    return IDENTITY


def _children(node: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(node, list | tuple):
        return ((str(number), each) for number, each in enumerate(node))
    if isinstance(node, Mapping):
        return ((str(name), each) for name, each in node.items())
    fields = getattr(node, "__dataclass_fields__", {})
    return ((name, getattr(node, name)) for name in fields if hasattr(node, name))
