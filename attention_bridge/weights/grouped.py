"""Rules for fused query, key and value projections with grouped heads, which no einops pattern can express.

The rows of the fused tensor are ordered by group of heads that share a key: the group's n query heads, its key head,
then its value head. With n = 1 this is the order (heads, 3, head_dim) of GPT-NeoX and BLOOM; with a single group it is
the order of Falcon-7B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from attention_bridge.weights.names import NamePattern, alternatives
from attention_bridge.weights.placeholders import concatenated

FUSED = "(g (n q k v) d) ..."
APART = "(g n d) ..., (g d) ..., (g d) ..."


@dataclass(frozen=True)
class GroupedMove:
    """A grouped rule in one direction: a `Move` whose `axes` give g, the number of groups, and d, the head size."""

    sources: tuple[NamePattern, ...]
    targets: tuple[NamePattern, ...]

    @property
    def pattern(self) -> str:
        """The move in the style of an einops pattern."""
        return f"{FUSED} -> {APART}" if self._splits else f"{APART} -> {FUSED}"

    def inverse(self) -> GroupedMove:
        """The inverse move."""
        return GroupedMove(self.targets, self.sources)

    def match(self, name: str) -> tuple[list[str], list[str]] | None:
        """The names of all sources, `name` among them, and of all targets; None if `name` does not match."""
        for pattern in self.sources:
            values = pattern.match(name)
            if values is not None:
                return [p.fill(values) for p in self.sources], [p.fill(values) for p in self.targets]
        return None

    def unknown_axes(self, axes: Mapping[str, int]) -> list[str]:
        """The axes whose sizes are not given."""
        return [name for name in ("g", "d") if name not in axes]

    def apply(self, arrays: Sequence[np.ndarray], axes: Mapping[str, int]) -> list[np.ndarray]:
        """Split the fused tensor, or concatenate queries, keys and values.

        Raises:
            ValueError: the shapes do not fit.
        """
        groups, head_dim = axes["g"], axes["d"]
        split = [_by_group(array, groups, head_dim) for array in arrays]  # g heads d ...
        if self._splits:
            (fused,) = split
            if fused.shape[1] < 3:
                raise ValueError(f"shape {arrays[0].shape} does not fit {self.pattern!r}")
            parts = (fused[:, :-2], fused[:, -2:-1], fused[:, -1:])
            return [part.reshape(-1, *arrays[0].shape[1:]) for part in parts]
        if len({array.dtype for array in arrays}) > 1 or any(part.shape[1] != 1 for part in split[1:]):
            raise ValueError("queries, keys and values in one tensor have one dtype, and one key per group")
        return [concatenated(split, axis=1).reshape(-1, *arrays[0].shape[1:])]

    @property
    def _splits(self) -> bool:
        return len(self.sources) == 1


@dataclass(frozen=True)
class GroupedRule:
    """The rule for one fused query, key and value tensor.

    Args:
        theirs: name pattern of the fused tensor in the outside layout.
        hub: name pattern of the three tensors in the canonical layout, `layers.{n}.attention.{q,k,v}_proj.weight`.
    """

    theirs: str
    hub: str
    to_hub: tuple[GroupedMove, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        hub = tuple(map(NamePattern, alternatives(self.hub)))
        object.__setattr__(self, "to_hub", (GroupedMove((NamePattern(self.theirs),), hub),))

    def within(self, path: str) -> GroupedRule:
        """The same rule for a module that holds the canonical tensors at `path`."""
        return GroupedRule(self.theirs, f"{path}.{self.hub}")


def _by_group(array: np.ndarray, groups: int, head_dim: int) -> np.ndarray:
    rows = array.shape[0] if array.ndim else 0
    if rows == 0 or rows % (groups * head_dim):
        raise ValueError(f"shape {array.shape} does not have whole heads of {head_dim} for {groups} groups")
    return array.reshape(groups, -1, head_dim, *array.shape[1:])
