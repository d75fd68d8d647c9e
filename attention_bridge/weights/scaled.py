"""Rules for tensors that an outside format stores scaled or shifted, the only rules that compute.

    ScaledRule("{path}query.kernel", "{path}q_proj.weight", "i h d -> (h d) i", axis="d", power=0.5)   # times sqrt(d)
    ScaledRule("{path}norm.scale", "{path}norm.weight", shift=-1.0)                                    # minus 1

Each value is computed in float64 and rounded once to the dtype of the tensor. A conversion there and back keeps the
bytes if the factor is a power of two; otherwise a value may change by one unit in its last place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from attention_bridge.weights.rule import IDENTITY, Move, Rule

ROWS = 2**20  # values that are computed at once, to save memory

_ITEM = re.compile(r"\([^)]*\)|\S+")


@dataclass(frozen=True)
class ScaledMove:
    """A scaled rule in one direction: y = x * size**power + shift after `move`.

    Attributes:
        move: the move of the axes, without arithmetic.
        axis: axis whose size is scaled by, or several, whose sizes are multiplied; empty for no factor.
        power: exponent of that size.
        shift: number that is added.
        dtype: dtype to which the factor, or the divisor of a negative power, is rounded.
        is_inverse: whether this is the direction from the canonical layout, x = (y - shift) / size**power.
    """

    move: Move
    axis: str
    power: float
    shift: float
    dtype: str
    is_inverse: bool = False

    @property
    def pattern(self) -> str:
        """The einops pattern of the axes."""
        return self.move.pattern

    @property
    def arithmetic(self) -> str:
        """The arithmetic in words, such as `times d**0.5`."""
        steps = []
        if self.axis:
            size = f"({self.axis})" if " " in self.axis else self.axis
            steps.append(f"times {size}**{-self.power if self.is_inverse else self.power:g}")
        if self.shift:
            steps.append(f"plus {-self.shift if self.is_inverse else self.shift:g}")
        return ", ".join(steps[::-1] if self.is_inverse else steps)

    def inverse(self) -> ScaledMove:
        """The inverse move."""
        return ScaledMove(
            self.move.inverse(), self.axis, self.power, self.shift, self.dtype, not self.is_inverse
        )

    def match(self, name: str) -> tuple[list[str], list[str]] | None:
        """The names of all sources, `name` among them, and of all targets; None if `name` does not match."""
        return self.move.match(name)

    def unknown_axes(self, axes: Mapping[str, int]) -> list[str]:
        """The axes whose sizes neither a tensor's shape nor `axes` gives."""
        unknown = self.move.unknown_axes(axes)
        alone = self._items() if self.axis else []
        missing = [] if f"({self.axis})" in alone else self.axis.split()
        known = {"two", *axes, *alone, *unknown}
        return [*unknown, *(name for name in missing if name not in known)]

    def apply(self, arrays: Sequence[np.ndarray], axes: Mapping[str, int]) -> list[np.ndarray]:
        """Rearrange the axes, and compute the values.

        Raises:
            ValueError: the shapes do not fit, or the values are not floating-point numbers.
        """
        moved = self.move.apply(arrays, axes)
        factor = self._factor(arrays[0].shape, axes) if self.axis else 1.0
        return [self._computed(array, factor) for array in moved]

    def _items(self) -> list[str]:
        """The axes of a source tensor, such as `h` or `(pair two)`."""
        return _ITEM.findall(self.pattern.partition(" -> ")[0])

    def _factor(self, shape: tuple[int, ...], axes: Mapping[str, int]) -> float:
        """The factor, or the divisor of a negative power, from the size of the axis in the shape or in `axes`."""
        sizes = {**dict(zip(self._items(), shape, strict=True)), "two": 2, **axes}
        group = f"({self.axis})"
        size = sizes[group] if group in sizes else math.prod(sizes[name] for name in self.axis.split())
        rounded = float(np.asarray(size ** abs(self.power), getattr(ml_dtypes, self.dtype, self.dtype)))
        return rounded

    def _computed(self, array: np.ndarray, factor: float) -> np.ndarray:
        if not (array.dtype.kind == "f" or ml_dtypes_float(array.dtype)):
            raise ValueError(f"values to scale must be floating-point numbers, got {array.dtype}")
        if array.size and not any(array.strides):  # one value, such as a placeholder's
            return np.broadcast_to(self._values(array[(0,) * array.ndim], factor), array.shape)
        found = np.empty(array.shape, array.dtype)
        rows = max(1, ROWS // max(1, array[:1].size))
        for start in range(0, len(array), rows):
            found[start : start + rows] = self._values(array[start : start + rows], factor)
        return found

    def _values(self, array: np.ndarray, factor: float) -> np.ndarray:
        wide = np.asarray(array, np.float64) - (self.shift if self.is_inverse else 0.0)
        wide = wide * factor if (self.power > 0) != self.is_inverse else wide / factor
        return (wide + (0.0 if self.is_inverse else self.shift)).astype(array.dtype)


@dataclass(frozen=True)
class ScaledRule:
    """A rule whose canonical tensor is the outside tensor, multiplied by a power of an axis' size, plus a number.

    Args:
        theirs: name pattern of one tensor in the outside layout, as in `Rule`.
        hub: name pattern of one tensor in the canonical layout.
        pattern: einops pattern from the outside to the canonical layout, as in `Rule`.
        axis: axis whose size is scaled by, or several, whose sizes are multiplied; empty for no factor.
        power: exponent of that size, such as 0.5.
        shift: number that is added.
        dtype: dtype to which the factor, or the divisor of a negative power, is rounded, as in the outside library.
    """

    theirs: str
    hub: str
    pattern: str = IDENTITY
    axis: str = ""
    power: float = 1.0
    shift: float = 0.0
    dtype: str = "float64"
    to_hub: tuple[ScaledMove, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        moves = Rule(self.theirs, self.hub, self.pattern).to_hub
        if any(len(move.sources) != len(move.targets) for move in moves):
            raise ValueError(
                f"a scaled rule has one tensor on each side, but got {self.theirs!r} and {self.hub!r}"
            )
        scaled = tuple(ScaledMove(move, self.axis, self.power, self.shift, self.dtype) for move in moves)
        object.__setattr__(self, "to_hub", scaled)

    def within(self, path: str) -> ScaledRule:
        """The same rule for a module that holds the canonical tensors at `path`."""
        return ScaledRule(
            self.theirs, f"{path}.{self.hub}", self.pattern, self.axis, self.power, self.shift, self.dtype
        )


def ml_dtypes_float(dtype: np.dtype[Any]) -> bool:
    """Whether this is a floating-point dtype of ml_dtypes, such as bfloat16."""
    try:
        ml_dtypes.finfo(dtype)
    except ValueError:
        return False
    return True
