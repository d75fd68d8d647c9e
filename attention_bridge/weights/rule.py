"""Conversion rules: pairs of name patterns, with an einops pattern that reorders the axes.

Swapping the two sides of an einops pattern gives the inverse rule:

    Rule("{path}in_proj_weight", "{path}{q,k,v}_proj.weight", "(three e) d -> three e d")
    Rule("{path}kernel",         "{path}weight",              "i o -> o i")
    Rule("pooler.dense.{name}",  "pooler.{name}")
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from einops import EinopsError, rearrange

from attention_bridge.weights.names import NamePattern, alternatives
from attention_bridge.weights.placeholders import stacked

IDENTITY = "... -> ..."

_AXIS = re.compile(r"[a-zA-Z]\w*|\.\.\.")
_GROUP = re.compile(r"\(([^)]*)\)")


@dataclass(frozen=True)
class Move:
    """A rule in one direction: it converts the tensors named by `sources` to the tensors named by `targets`.

    Several sources are stacked along the first axis of the left side of `pattern`; several targets are split along
    the first axis of its right side.
    """

    sources: tuple[NamePattern, ...]
    targets: tuple[NamePattern, ...]
    pattern: str

    def inverse(self) -> Move:
        """The inverse move."""
        left, right = _sides(self.pattern)
        return Move(self.targets, self.sources, f"{right} -> {left}")

    def match(self, name: str) -> tuple[list[str], list[str]] | None:
        """The names of all sources, `name` among them, and of all targets; None if `name` does not match."""
        for pattern in self.sources:
            values = pattern.match(name)
            if values is not None:
                return [p.fill(values) for p in self.sources], [p.fill(values) for p in self.targets]
        return None

    def unknown_axes(self, axes: Mapping[str, int]) -> list[str]:
        """The axes whose sizes neither a tensor's shape nor `axes` gives."""
        known = self._sizes(axes)
        groups = [_AXIS.findall(group) for group in _GROUP.findall(_sides(self.pattern)[0])]
        unknown = [[axis for axis in group if axis not in known] for group in groups]
        return [axis for group in unknown if len(group) > 1 for axis in group]

    def apply(self, arrays: Sequence[np.ndarray], axes: Mapping[str, int]) -> list[np.ndarray]:
        """Rearrange the axes. The results may share memory with `arrays`.

        Raises:
            ValueError: the shapes do not fit the pattern, or tensors to stack differ in shape or dtype.
        """
        if len({(array.shape, array.dtype) for array in arrays}) > 1:
            raise ValueError("tensors to stack have one shape and one dtype")
        array = stacked(arrays) if len(self.sources) > 1 else arrays[0]
        try:
            result = rearrange(array, self.pattern, **self._sizes(axes))
        except EinopsError as error:
            raise ValueError(f"shape {array.shape} does not fit {self.pattern!r}") from error
        if len(self.targets) == 1:
            return [result]
        return [result[index, ...] for index in range(len(self.targets))]

    def _sizes(self, axes: Mapping[str, int]) -> dict[str, int]:
        """The axis sizes for einops: those in `axes`, `two`, `three`, and the number of stacked tensors."""
        names = _AXIS.findall(self.pattern)
        given = {"two": 2, "three": 3, **axes}
        sizes = {name: given[name] for name in names if name in given}
        for side, patterns in zip(_sides(self.pattern), (self.sources, self.targets), strict=True):
            if len(patterns) > 1:
                sizes[_AXIS.findall(side)[0]] = len(patterns)
        return sizes


@dataclass(frozen=True)
class Rule:
    """A rule between an outside layout and the canonical layout.

    Alternatives on one side (`{q,k,v}_proj.weight`) are several tensors, stacked along the pattern's first axis
    into the single tensor on the other side. Alternatives on both sides are paired in order, one rule per pair.

    Args:
        theirs: name pattern in the outside layout.
        hub: name pattern in the canonical layout, with the same placeholders.
        pattern: einops pattern from the outside to the canonical layout, with the same axes on both sides.

    Raises:
        ValueError: the rule has no inverse.
    """

    theirs: str
    hub: str
    pattern: str = IDENTITY
    to_hub: tuple[Move, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        theirs = tuple(map(NamePattern, alternatives(self.theirs)))
        hub = tuple(map(NamePattern, alternatives(self.hub)))
        if theirs[0].placeholders != hub[0].placeholders:
            raise ValueError(f"{self.theirs!r} and {self.hub!r} differ in their placeholders")
        if len(theirs) != len(hub) and 1 not in (len(theirs), len(hub)):
            raise ValueError(f"{self.theirs!r} and {self.hub!r} differ in how many alternatives they have")

        left, right = map(_AXIS.findall, _sides(self.pattern))
        if sorted(left) != sorted(right) or len(set(left)) != len(left):
            raise ValueError(f"each axis occurs once on each side of a pattern, but got {self.pattern!r}")

        if len(theirs) == len(hub):
            moves = tuple(Move((t,), (h,), self.pattern) for t, h in zip(theirs, hub, strict=True))
        else:
            stacked_side = _sides(self.pattern)[len(hub) > 1]
            if not re.match(r"[a-zA-Z]", stacked_side):
                raise ValueError(f"tensors are stacked along a named first axis, but got {self.pattern!r}")
            moves = (Move(theirs, hub, self.pattern),)
        object.__setattr__(self, "to_hub", moves)

    def within(self, path: str) -> Rule:
        """The same rule for a module that holds the canonical tensors at `path`."""
        return Rule(self.theirs, f"{path}.{self.hub}", self.pattern)


def _sides(pattern: str) -> tuple[str, str]:
    """The left and right side of a pattern."""
    sides = pattern.split(" -> ")
    if len(sides) != 2:
        raise ValueError(f"an einops pattern has two sides with ' -> ' between, but got {pattern!r}")
    return sides[0], sides[1]
