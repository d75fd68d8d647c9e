"""A layer of a module: its kind, and its tensors with the order of their axes.

Canonical tensors have the axes of PyTorch: linear weights (out, in), convolutions (out, in, height, width).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange

from attention_bridge.weights.rule import IDENTITY

Shape = tuple[int, ...]
SPACE = ("length", "height width", "depth height width")  # axes of convolutions, by their number


@dataclass(frozen=True)
class Leaf:
    """A stored tensor of a layer.

    Attributes:
        name: its name in the module's container.
        roles: names of the canonical tensors that it holds, joined along their first axis, such as ``("weight",)``.
        pattern: einops pattern from its axes to the canonical ones.
        flipped: whether the axes of space are in reverse order.
        number: index of the layer if the tensor holds all layers of a stack, along its first axis; None if not.
    """

    name: str
    roles: tuple[str, ...]
    pattern: str = IDENTITY
    flipped: bool = False
    number: int | None = None

    def canonical(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """The canonical tensors that a stored tensor of this layer alone holds."""
        array = rearrange(array, self.pattern)
        if self.flipped:
            array = np.flip(array, tuple(range(2, array.ndim)))
        parts = [array] if len(self.roles) == 1 else np.split(array, len(self.roles))
        return dict(zip(self.roles, parts, strict=True))

    def stored(self, arrays: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """The stored tensor that holds these canonical tensors, of a given shape."""
        whole = [arrays[role] for role in self.roles]
        array = whole[0] if len(whole) == 1 else np.concatenate(whole)
        if self.flipped:
            array = np.flip(array, tuple(range(2, array.ndim)))
        ours, canonical = self.pattern.split(" -> ")
        if self.pattern == IDENTITY:
            return array
        sizes = dict(zip(ours.split(), shape, strict=True))
        used = {axis: size for axis, size in sizes.items() if axis in re.findall(r"\w+", canonical)}
        return rearrange(array, f"{canonical} -> {ours}", **used)

    def canonical_shapes(self, shape: Shape) -> dict[str, Shape]:
        """The shapes of the canonical tensors, from the shape of the stored one of this layer alone."""
        empty = np.broadcast_to(np.empty((), np.bool_), shape)
        return {role: array.shape for role, array in self.canonical(empty).items()}


@dataclass(frozen=True)
class Layer:
    """A layer of a module.

    Attributes:
        path: names of the modules that hold it, from the outside inwards; its own name is the last one.
        kind: the kind of the layer, such as ``"linear"``; layers of one kind may be paired.
        leaves: its stored tensors.
        shapes: shapes of its canonical tensors by role.
        title: its class, for messages.
    """

    path: tuple[str, ...]
    kind: str
    leaves: tuple[Leaf, ...]
    shapes: Mapping[str, Shape]
    title: str

    @property
    def name(self) -> str:
        """The path, joined by dots."""
        return ".".join(self.path) or "the module"

    @property
    def signature(self) -> tuple[str, Shape]:
        """The kind and the shape of the weight, which are equal in both layers of a pair."""
        return self.kind, next(iter(self.shapes.values()))


def layer(
    path: Iterable[str], kind: str, leaves: Iterable[Leaf], shapes: Mapping[str, Sequence[int]], title: str
) -> Layer:
    """Describe a layer; `shapes` are the shapes of the stored tensors by name, without the axis of a stack."""
    held = tuple(leaves)
    canonical: dict[str, Shape] = {}
    for leaf in held:
        canonical |= leaf.canonical_shapes(tuple(shapes[leaf.name]))
    return Layer(tuple(path), kind, held, canonical, title)


def space(rank: int) -> str:
    """The names of the axes of space of a convolution's kernel with this number of axes."""
    return SPACE[rank - 3]


def joined(count: int, name: str) -> str:
    """The names of several axes that are one axis in the canonical tensor: `name1 name2`."""
    return " ".join(f"{name}{number}" for number in range(count))


def size(shape: Shape) -> int:
    """The number of elements."""
    return math.prod(shape)
