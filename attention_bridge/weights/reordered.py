"""Rules for tensors whose parts are in another order along one axis, which no einops pattern can express.

    ReorderedRule("{path}kqv.weight", "{path}qkv.weight", "(three o) i -> (three o) i", axis="three", order=(1, 0, 2))
    ReorderedRule("{path}w13.weight", "{path}up_gate.kernel", "(two o) i -> i (two o)", axis="two", order=(1, 0))

Part `order[i]` along the axis in the outside layout is part i in the canonical layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from einops import EinopsError, rearrange

from attention_bridge.weights.placeholders import is_ghost
from attention_bridge.weights.rule import Move, Rule


@dataclass(frozen=True)
class ReorderedMove:
    """A reordered rule in one direction.

    Attributes:
        move: the move of the axes, without the new order.
        axis: axis along which the parts are.
        order: position in the source of each part of the target.
    """

    move: Move
    axis: str
    order: tuple[int, ...]

    @property
    def pattern(self) -> str:
        """The einops pattern of the axes."""
        return self.move.pattern

    @property
    def arithmetic(self) -> str:
        """The new order in words."""
        return f"take {self.axis} in the order {', '.join(map(str, self.order))}"

    def inverse(self) -> ReorderedMove:
        """The inverse move."""
        order = tuple(self.order.index(each) for each in range(len(self.order)))
        return ReorderedMove(self.move.inverse(), self.axis, order)

    def match(self, name: str) -> tuple[list[str], list[str]] | None:
        """The names of all sources, `name` among them, and of all targets; None if `name` does not match."""
        return self.move.match(name)

    def unknown_axes(self, axes: Mapping[str, int]) -> list[str]:
        """The axes whose sizes neither a tensor's shape nor `axes` gives."""
        return self.move.unknown_axes({**axes, self.axis: len(self.order)})

    def apply(self, arrays: Sequence[np.ndarray], axes: Mapping[str, int]) -> list[np.ndarray]:
        """Rearrange the axes, and take the parts in their new order.

        Raises:
            ValueError: the shapes do not fit.
        """
        left, right = self.pattern.split(" -> ")
        rest = [name for name in right.replace("(", " ").replace(")", " ").split() if name != self.axis]
        apart = " ".join((self.axis, *rest))
        sizes = {"two": 2, "three": 3, **axes, self.axis: len(self.order)}
        sizes = {name: size for name, size in sizes.items() if name in (self.axis, *rest)}
        try:
            parts = rearrange(arrays[0], f"{left} -> {apart}", **sizes)
            parts = parts if is_ghost(arrays[0]) else parts[list(self.order)]
            found = dict(zip(apart.split(), parts.shape, strict=True))
            return [rearrange(parts, f"{apart} -> {right}", **found)]
        except EinopsError as error:
            raise ValueError(f"shape {arrays[0].shape} does not fit {self.pattern!r}") from error


@dataclass(frozen=True)
class ReorderedRule:
    """A rule for one tensor whose parts have another order along one axis.

    Args:
        theirs: name pattern of one tensor in the outside layout, as in `Rule`.
        hub: name pattern of one tensor in the canonical layout.
        pattern: einops pattern from the outside to the canonical layout, as in `Rule`.
        axis: axis of the pattern along which the parts are.
        order: position in the outside tensor of each part of the canonical tensor.

    Raises:
        ValueError: the pattern has no such axis, or `order` is not a permutation.
    """

    theirs: str
    hub: str
    pattern: str
    axis: str
    order: tuple[int, ...]
    to_hub: tuple[ReorderedMove, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        moves = Rule(self.theirs, self.hub, self.pattern).to_hub
        if any(len(move.sources) != len(move.targets) for move in moves):
            raise ValueError(
                f"a reordered rule has one tensor on each side, but got {self.theirs!r} and {self.hub!r}"
            )
        if self.axis not in self.pattern.replace("(", " ").replace(")", " ").split():
            raise ValueError(f"axis must be an axis of {self.pattern!r}, got {self.axis!r}")
        if sorted(self.order) != [*range(len(self.order))] or not self.order:
            raise ValueError(f"order must have each number from 0 up once, got {self.order}")
        object.__setattr__(
            self, "to_hub", tuple(ReorderedMove(move, self.axis, tuple(self.order)) for move in moves)
        )

    def within(self, path: str) -> ReorderedRule:
        """The same rule for a module that holds the canonical tensors at `path`."""
        return ReorderedRule(self.theirs, f"{path}.{self.hub}", self.pattern, self.axis, self.order)
