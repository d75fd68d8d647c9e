"""Rules for fused tensors whose parts have different numbers of rows, which no einops pattern can express.

    JoinedRule("{path}qkv_proj.weight", "{path}{q,k,v}_proj.weight", "h d, g d, g d")
    JoinedRule("{path}in_proj_ba.weight", "{path}{b,a}_proj.weight", "each, each", blocks="key_heads")

The first is the order of Phi-3: all queries, then all keys, then all values. With `blocks`, the parts repeat for each
block, as for each key head in Qwen3-Next. The fused tensor may also be the canonical one:

    JoinedRule("{path}{q,k,v}_conv1d.weight", "{path}conv.weight", "keys, keys, values")

Where rows are not the first axis, einops patterns bring them there; here both matrices are (in, out):

    JoinedRule("{path}c_attn.weight", "{path}{q,k,v}.kernel", "h d, g d, g d", fused="i o -> o i", parts="o i -> i o")
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from einops import EinopsError, rearrange

from attention_bridge.weights.names import NamePattern, alternatives
from attention_bridge.weights.placeholders import concatenated
from attention_bridge.weights.rule import IDENTITY, Move


@dataclass(frozen=True)
class JoinedMove:
    """A joined rule in one direction: a `Move` that splits the rows of one tensor, or joins the rows of several.

    Attributes:
        sources, targets: the tensors; one of both sides is the fused tensor.
        rows: names of the axes whose product is the number of rows of each part, in each block.
        blocks: name of the axis that gives the number of blocks; None for one block.
        fused: einops pattern that brings the rows of the fused tensor first.
        parts: einops pattern from each part, with its rows first, to the tensor of the part.
    """

    sources: tuple[NamePattern, ...]
    targets: tuple[NamePattern, ...]
    rows: tuple[tuple[str, ...], ...]
    blocks: str | None = None
    fused: str = IDENTITY
    parts: tuple[str, ...] = ()

    @property
    def pattern(self) -> str:
        """The move in the style of an einops pattern."""
        outer = () if self.blocks is None else (self.blocks,)
        sum_ = " + ".join(" ".join(part) for part in self.rows)
        fused = f"({' '.join((*outer, f'({sum_})' if outer else sum_))}) ..."
        apart = ", ".join(f"({' '.join((*outer, *part))}) ..." for part in self.rows)
        return f"{fused} -> {apart}" if self._splits else f"{apart} -> {fused}"

    def inverse(self) -> JoinedMove:
        """The inverse move."""
        return JoinedMove(self.targets, self.sources, self.rows, self.blocks, self.fused, self.parts)

    def match(self, name: str) -> tuple[list[str], list[str]] | None:
        """The names of all sources, `name` among them, and of all targets; None if `name` does not match."""
        for pattern in self.sources:
            values = pattern.match(name)
            if values is not None:
                return [p.fill(values) for p in self.sources], [p.fill(values) for p in self.targets]
        return None

    def unknown_axes(self, axes: Mapping[str, int]) -> list[str]:
        """The axes whose sizes are not given."""
        named = {name: None for part in self.rows for name in part}
        blocks = [] if self.blocks is None else [self.blocks]
        inner = [name for pattern in (self.fused, *self.parts) for name in self._unknown(pattern, axes)]
        return [name for name in dict.fromkeys((*blocks, *named, *inner)) if name not in axes]

    def _unknown(self, pattern: str, axes: Mapping[str, int]) -> list[str]:
        move = Move((), (), pattern)
        return (move if self._splits else move.inverse()).unknown_axes(axes)

    def apply(self, arrays: Sequence[np.ndarray], axes: Mapping[str, int]) -> list[np.ndarray]:
        """Split the fused tensor, or join the parts.

        Raises:
            ValueError: the shapes or dtypes do not fit.
        """
        if self._splits:
            rows = self._rows_apart([_moved(arrays[0], self.fused, axes)], axes)
            return [
                _moved(part, pattern, axes)
                for part, pattern in zip(rows, self._part_patterns(len(rows)), strict=True)
            ]
        inverse = [_inverse(pattern) for pattern in self._part_patterns(len(arrays))]
        rows = [_moved(array, pattern, axes) for array, pattern in zip(arrays, inverse, strict=True)]
        return [_moved(self._rows_apart(rows, axes)[0], _inverse(self.fused), axes)]

    def _part_patterns(self, count: int) -> tuple[str, ...]:
        return self.parts or (IDENTITY,) * count

    def _rows_apart(self, arrays: Sequence[np.ndarray], axes: Mapping[str, int]) -> list[np.ndarray]:
        """Split or join arrays whose first axis is the rows."""
        blocks = 1 if self.blocks is None else axes[self.blocks]
        sizes = [math.prod(axes[name] for name in part) for part in self.rows]
        given = [sum(sizes)] if self._splits else sizes
        if self.blocks is None and not self._splits:  # wherever the rows are cut, they are joined in order
            given = [len(array) if array.ndim else 0 for array in arrays]
        kinds = {(array.shape[1:], array.dtype) for array in arrays}
        if (
            len(kinds) > 1
            or sum(given) != sum(sizes)
            or any(
                not array.ndim or len(array) != blocks * size
                for array, size in zip(arrays, given, strict=True)
            )
        ):
            raise ValueError(f"shapes {[array.shape for array in arrays]} do not fit {self.pattern!r}")
        rest = arrays[0].shape[1:]
        whole = [
            array.reshape(blocks, size, *rest) for array, size in zip(arrays, given, strict=True)
        ]  # blocks rows ...
        if not self._splits:
            return [concatenated(whole, axis=1).reshape(-1, *rest)]
        ends = np.cumsum(sizes)
        parts = [whole[0][:, end - size : end] for end, size in zip(ends, sizes, strict=True)]
        return [part.reshape(blocks * size, *rest) for part, size in zip(parts, sizes, strict=True)]

    @property
    def _splits(self) -> bool:
        return len(self.sources) == 1


@dataclass(frozen=True)
class JoinedRule:
    """The rule for one fused tensor with parts of different numbers of rows.

    Args:
        theirs: name pattern in the outside layout.
        hub: name pattern in the canonical layout; one of both names the parts, as alternatives in the order of the
            rows, the other the fused tensor.
        rows: axes whose product is the number of rows of each part, `"h d, g d, g d"`.
        blocks: axis that gives the number of blocks, each with rows of all parts; None for one block.
        fused: einops pattern that brings the rows of the fused tensor first.
        parts: einops pattern from a part with its rows first to the tensor of the part; one for all parts, or one for
            each, separated by commas.

    Raises:
        ValueError: not exactly one of both names the parts in `rows`, or `parts` has another number of patterns.
    """

    theirs: str
    hub: str
    rows: str
    blocks: str | None = None
    fused: str = IDENTITY
    parts: str = IDENTITY
    to_hub: tuple[JoinedMove, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        theirs, hub = (tuple(map(NamePattern, alternatives(name))) for name in (self.theirs, self.hub))
        rows = tuple(tuple(part.split()) for part in self.rows.split(","))
        if sorted((len(theirs), len(hub))) != [1, len(rows)] or len(rows) < 2:
            raise ValueError(
                "a joined rule has the rows of each of several parts, "
                f"got {self.theirs!r}, {self.hub!r} and {self.rows!r}"
            )
        parts = tuple(part.strip() for part in self.parts.split(","))
        if len(parts) not in (1, len(rows)):
            raise ValueError(
                f"parts has one pattern for all parts or one for each of {len(rows)}, got {self.parts!r}"
            )
        if set(parts) == {IDENTITY}:
            parts = ()
        elif len(parts) == 1:
            parts *= len(rows)
        move = JoinedMove(theirs, hub, rows, self.blocks, self.fused, parts)
        object.__setattr__(self, "to_hub", (move,))

    def within(self, path: str) -> JoinedRule:
        """The same rule for a module that holds the canonical tensors at `path`."""
        return JoinedRule(self.theirs, f"{path}.{self.hub}", self.rows, self.blocks, self.fused, self.parts)


def _inverse(pattern: str) -> str:
    left, right = pattern.split(" -> ")
    return f"{right} -> {left}"


def _moved(array: np.ndarray, pattern: str, axes: Mapping[str, int]) -> np.ndarray:
    """The array with its axes in the order of an einops pattern.

    Raises:
        ValueError: the shape does not fit.
    """
    if pattern == IDENTITY:
        return array
    known = {"two": 2, "three": 3, **axes}
    sizes = {name: known[name] for name in re.findall(r"\w+", pattern) if name in known}
    try:
        return rearrange(array, pattern, **sizes)
    except EinopsError as error:
        raise ValueError(f"shape {array.shape} does not fit {pattern!r}") from error
