"""The layers of one side of a draft, each with its tensors by role.

A `Bundle` is a layer of a module, or several that are one layer on the other side, such as the projections of queries,
keys and values. In a checkpoint, tensors are layers by their names: `attn.wq.weight` and `attn.wq.bias` are the weight
and the bias of `attn.wq`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from attention_bridge.errors import InputError
from attention_bridge.weights.containers import Container, tied_names
from attention_bridge.weights.rule import IDENTITY
from attention_bridge.weights.twins.layers import SPACE, Layer, Leaf, Shape
from attention_bridge.weights.twins.modules import layers_of
from attention_bridge.weights.twins.naming import meaning

ROLES = {
    "weight": "weight",
    "kernel": "weight",
    "w": "weight",
    "embedding": "weight",
    "embeddings": "weight",
    "scale": "weight",
    "gamma": "weight",
    "g": "weight",
    "value": "weight",
    "bias": "bias",
    "b": "bias",
    "beta": "bias",
    "offset": "bias",
    "running_mean": "running_mean",
    "mean": "running_mean",
    "moving_mean": "running_mean",
    "running_var": "running_var",
    "var": "running_var",
    "moving_variance": "running_var",
}
INPUTS_FIRST = ("kernel", "w")  # names of weights whose axes are (in, out)
PREFIXED = re.compile(r"(weight|bias|w|b)_?(\w+)")  # such as wq and bq
SUFFIXED = re.compile(r"(\w+)_(weight|kernel|scale|bias)")
COUNTERS = "num_batches_tracked"


@dataclass(frozen=True)
class Bundle:
    """Tensors that are one layer of the other side.

    Attributes:
        path: names of the modules that hold it, from the outside inwards; its own name is the last one.
        kind: the kind of the layer.
        groups: its stored tensors by role, such as `weight`; several are joined along their rows, in order.
        shapes: shapes of the stored tensors by name.
        labels: meaning of each part along the rows, such as `query`; empty for one part.
        oriented: whether the order of the axes is known, from a type or the name `kernel`.
        is_stack: whether its tensors hold all layers of a stack.
    """

    path: tuple[str, ...]
    kind: str
    groups: Mapping[str, tuple[Leaf, ...]]
    shapes: Mapping[str, Shape]
    labels: tuple[str | None, ...] = ()
    oriented: bool = True

    @property
    def name(self) -> str:
        """The path, joined by dots."""
        return ".".join(self.path)

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """All stored tensors."""
        return tuple(leaf for leaves in self.groups.values() for leaf in leaves)

    def canonical(self, leaf: Leaf) -> Shape:
        """The shape of a stored tensor with its rows first."""
        parts = [*leaf.canonical_shapes(self.shapes[leaf.name]).values()]
        return (sum(part[0] for part in parts), *parts[0][1:]) if len(parts) > 1 else parts[0]

    @property
    def shape(self) -> Shape:
        """The shape of the weight with its rows first; of several tensors, as if they were joined."""
        leaves = next(iter(self.groups.values()))
        shapes = [self.canonical(leaf) for leaf in leaves]
        return shapes[0] if len(shapes) == 1 else (sum(shape[0] for shape in shapes), *shapes[0][1:])


def bundles_of(holder: Any, container: Container, *, with_aliases: bool = False) -> list[Bundle]:
    """The layers of a module, tree or checkpoint, in order.

    Args:
        holder: the module, tree or checkpoint.
        container: its tensors.
        with_aliases: whether names that share one tensor have a layer each; else only the first has.

    Raises:
        InputError: a tensor holds all layers of a stack.
    """
    names = container.leaves if with_aliases else _without_aliases(container)
    try:
        layers = layers_of(holder, container)
    except InputError:
        layers = [
            Layer(tuple(name.replace("/", ".").split(".")), "parameter", (Leaf(name, ("value",)),), {}, "")
            for name in names
            if not name.endswith(COUNTERS)
        ]
    layers = [
        replace(each, leaves=kept)
        for each in layers
        if (kept := tuple(leaf for leaf in each.leaves if leaf.name in names))
    ]
    if stacked := next(
        (leaf.name for each in layers for leaf in each.leaves if leaf.number is not None), None
    ):
        raise InputError(
            f"draft_layout takes tensors of single layers, but {stacked} holds all layers of a stack: transfer(a, b) "
            "aligns stacks"
        )
    shapes = {name: tuple(leaf.shape) for name, leaf in names.items()}
    return _named([each for layer in layers for each in _bundles(layer, shapes)])


def _without_aliases(container: Container) -> dict[str, Any]:
    aliases = {name for same in tied_names(container.leaves) for name in same[1:]}
    return {name: leaf for name, leaf in container.leaves.items() if name not in aliases}


def _bundles(layer: Layer, shapes: Mapping[str, Shape]) -> Iterable[Bundle]:
    """The bundle of a layer; tensors of a layer that are no weight and bias have bundles of their own."""
    groups: dict[str, list[Leaf]] = {}
    labels: list[str] = []
    for leaf in layer.leaves:
        first = leaf.roles[0]
        word, _, rest = first.partition(" ")
        if layer.kind == "attention" and word in ("query", "key", "value"):
            groups.setdefault("bias" if rest else "weight", []).append(leaf)
            labels += [] if rest else list(leaf.roles)
        else:
            groups.setdefault(ROLES.get(first, re.sub(r" \d+$", "", first)), []).append(leaf)
    if not labels and len(layer.leaves) and layer.kind in ("gru", "lstm", "rnn"):
        labels = [str(number) for number in range(_gates(layer))]
    held = {leaf.name: shapes[leaf.name] for leaf in layer.leaves}
    is_attention = layer.kind == "attention"
    kind = "linear" if is_attention else layer.kind
    path = (*layer.path, "qkv") if is_attention else layer.path
    oriented = layer.kind != "parameter"
    found = Bundle(
        path, kind, {role: tuple(each) for role, each in groups.items()}, held, tuple(labels), oriented
    )
    yield found


def _gates(layer: Layer) -> int:
    return sum(
        len(leaf.roles)
        for leaf in layer.leaves
        if leaf.roles[0].startswith("ih ") and "bias" not in leaf.roles[0]
    )


def _named(bundles: list[Bundle]) -> list[Bundle]:
    """The bundles, with own parameters joined to layers by their names."""
    groups: dict[tuple[str, ...], dict[str, list[Bundle]]] = {}
    paths = {each.path for each in bundles if each.kind == "parameter"}
    places: dict[tuple[str, ...], tuple[tuple[str, ...], str]] = {}
    for each in bundles:
        if each.kind != "parameter":
            continue
        place, role = _place(each.path, paths)
        places[each.path] = place, role
        groups.setdefault(place, {}).setdefault(role, []).append(each)
    found: list[Bundle] = []
    done = set()
    for each in bundles:
        if each.kind != "parameter":
            found.append(each)
            continue
        place, _ = places[each.path]
        parts = groups[place]
        if "weight" not in parts or any(len(same) > 1 for same in parts.values()):
            found.append(_described(each.path, {"weight": each}))
        elif place not in done:
            done.add(place)
            found.append(_described(place, {role: same[0] for role, same in parts.items()}))
    return found


def _place(path: tuple[str, ...], paths: set[tuple[str, ...]]) -> tuple[tuple[str, ...], str]:
    """The path of the layer that a parameter belongs to, and its role in it."""
    *above, name = path
    if name in ROLES and above and (name != "g" or (*above, "b") in paths):
        return tuple(above), ROLES[name]
    if (found := SUFFIXED.fullmatch(name)) is not None:
        return (*above, found[1]), ROLES[found[2]]
    if (found := PREFIXED.fullmatch(name)) is not None:
        start = found[1]
        others = ("b", "bias", "b_", "bias_") if start[0] == "w" else ("w", "weight", "w_", "weight_")
        if any((*above, other + found[2]) in paths for other in others):
            return (*above, found[2]), "weight" if start[0] == "w" else "bias"
    return path, "weight"


def _described(path: tuple[str, ...], parts: Mapping[str, Bundle]) -> Bundle:
    """A layer of own parameters, with its kind from the number of axes and the names."""
    order = sorted(parts, key=lambda role: role != "weight")
    weight = parts["weight"]
    (leaf,) = weight.leaves
    shape = weight.shapes[leaf.name]
    rank, last = len(shape), leaf.name.replace("/", ".").rpartition(".")[2]
    pattern = IDENTITY
    if rank == 1 or (rank == 0 and len(parts) > 1):
        kind = "statistics norm" if "running_mean" in parts else "norm"
    elif rank == 2:
        kind = "embedding" if _is_embedding(path, last) else "linear"
        pattern = "i o -> o i" if last in INPUTS_FIRST else IDENTITY
    elif 3 <= rank <= 5 and last in ("weight", *INPUTS_FIRST):
        kind = "convolution"
        if last in INPUTS_FIRST:
            pattern = f"{SPACE[rank - 3]} i o -> o i {SPACE[rank - 3]}"
    else:
        kind = "parameter"
    groups = {
        role: (
            replace(parts[role].leaves[0], roles=(role,), pattern=pattern if role == "weight" else IDENTITY),
        )
        for role in order
    }
    shapes = {name: each for role in order for name, each in parts[role].shapes.items()}
    oriented = last in INPUTS_FIRST or kind in ("norm", "statistics norm", "embedding")
    return Bundle(path, kind, groups, shapes, (), oriented)


def _is_embedding(path: tuple[str, ...], last: str) -> bool:
    words = [word for word in path if not word.isdigit()]
    return last.startswith("embedding") or any(
        meaning(word) in ("tokens", "positions") or "emb" in word.lower() for word in words[-1:]
    )


def size(shape: Shape) -> int:
    """The number of elements."""
    return math.prod(shape)
