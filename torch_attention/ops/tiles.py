"""Which tiles of the (query, key) plane have something to see.

Blockwise attention walks over the plane tile by tile. What hides keys by their place (causal, a window) or by a
mask leaves most tiles either dead, all hidden, or full, all visible. Dead ones are never visited, full ones need no
mask; so a causal plane costs half, and a window costs in proportion to the length.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torch_attention.ops.arrays import known_values
from torch_attention.ops.rules import Place, Rule, Visibility


class Live(NamedTuple):
    """A tile that is visited: its number along the keys, and whether a mask is needed there."""

    column: int
    is_partial: bool


Tiling = tuple[tuple[Live, ...], ...]  # for each row of tiles


def tile_size(length: int, most: int) -> int:
    """The size of the fewest tiles of nearly equal size, each of at most `most`, that cover `length`."""
    count = max(1, -(-length // most))
    return max(1, -(-length // count))


def tiling(
    lengths: tuple[int, int],
    sizes: tuple[int, int],
    *,
    visibility: Visibility,
    mask: Bool[Tensor, "... query key"] | None,
) -> Tiling:
    """The tiles to visit; while code is compiled a mask cannot be looked at, and hides no tile as a whole.

    Args:
        lengths: of queries and keys.
        sizes: of a tile along both.
        visibility: whom each query sees by its place.
        mask: True where the query attends to the key, for all batch elements and heads; an axis may have size 1.
    """
    (query_len, key_len), (rows, columns) = lengths, sizes
    before, after = visibility.before, visibility.after
    offset = _span(visibility.query_offset)
    query_lengths, key_lengths = _span(visibility.query_lengths), _span(visibility.key_lengths)
    some_alike, all_alike = _tiles_by_segment(visibility, sizes)
    some, every = (None, None) if mask is None else tiles_by_mask(mask, sizes)
    found = []
    for i in range(-(-query_len // rows)):
        row = []
        for j in range(-(-key_len // columns)):
            live, full = True, mask is None
            if some is not None and every is not None:
                at = i % len(some), j % len(some[0])  # an axis of size 1 is for all
                live, full = bool(some[at]), bool(every[at])
            first_key, last_key = j * columns, min(key_len, (j + 1) * columns) - 1
            first_query, last_query = i * rows, min(query_len, (i + 1) * rows) - 1
            if after is not None:
                live = live and (offset is None or first_key <= last_query + offset[1] + after)
                full = full and offset is not None and last_key <= first_query + offset[0] + after
            if before is not None:
                live = live and (offset is None or last_key >= first_query + offset[0] - before)
                full = full and offset is not None and first_key >= last_query + offset[1] - before
            if visibility.query_lengths is not None:
                live = live and (query_lengths is None or first_query < query_lengths[1])
                full = full and query_lengths is not None and last_query < query_lengths[0]
            if visibility.key_lengths is not None:
                live = live and (key_lengths is None or first_key < key_lengths[1])
                full = full and key_lengths is not None and last_key < key_lengths[0]
            if visibility.query_segments is not None:
                live = live and (some_alike is None or bool(some_alike[i, j]))
                full = full and all_alike is not None and bool(all_alike[i, j])
            if live:
                row.append(Live(j, not full))
        found.append(tuple(row))
    return tuple(found)


def tiles_by_mask(
    mask: Bool[Tensor, "... query key"], sizes: tuple[int, int]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Of which tiles a mask shows something, and of which all, to any and to all batch elements and heads."""
    query_len, key_len = mask.shape[-2:]
    rows, columns = (1 if length == 1 else size for length, size in zip(mask.shape[-2:], sizes, strict=True))
    flat = mask.reshape(-1, query_len, key_len)
    widths = (0, -key_len % columns, 0, -query_len % rows)
    some = F.pad(flat.any(0), widths).unflatten(0, (-1, rows)).unflatten(2, (-1, columns)).any(3).any(1)
    every = (
        F.pad(flat.all(0), widths, value=True)
        .unflatten(0, (-1, rows))
        .unflatten(2, (-1, columns))
        .all(3)
        .all(1)
    )
    return known_values(some), known_values(every)


def cut(x: Tensor, axis: int, number: int, size: int) -> Tensor:
    """One tile along an axis; the last may be shorter, and an axis of size 1 is for all."""
    length = x.shape[axis]
    return x if length == 1 else x.narrow(axis, number * size, min(size, length - number * size))


def _span(x: int | Int[Tensor, "..."] | None) -> tuple[int, int] | None:
    """The least and the largest of some numbers; None if they are not known."""
    if x is None or isinstance(x, int):
        return None if x is None else (x, x)
    values = known_values(x)
    return None if values is None else (int(values.min()), int(values.max()))


def _tiles_by_segment(
    visibility: Visibility, sizes: tuple[int, int]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """In which tiles some query may be of a key's segment, and in which all are; None if that is not known."""
    if visibility.query_segments is None or visibility.key_segments is None:
        return None, None
    queries, keys = known_values(visibility.query_segments), known_values(visibility.key_segments)
    if queries is None or keys is None:
        return None, None
    (first, last), (lowest, highest) = (
        (
            np.minimum.reduceat(x, range(0, x.shape[1], size), axis=1),
            np.maximum.reduceat(x, range(0, x.shape[1], size), axis=1),
        )
        for x, size in ((queries, sizes[0]), (keys, sizes[1]))
    )
    first, last = first[:, :, None], last[:, :, None]  # batch rows 1
    lowest, highest = lowest[:, None], highest[:, None]  # batch 1 columns
    some = (first <= highest) & (lowest <= last)
    every = (first == last) & (lowest == highest) & (first == lowest)
    return np.asarray(some.any(0)), np.asarray(every.all(0))


class Plan(NamedTuple):
    """What is decided before any number is seen.

    Attributes:
        rule: how products become scores.
        rows: queries in a tile.
        columns: keys in a tile.
        dropout_rate: the probability with which `Fixed.keep` was drawn.
    """

    rule: Rule
    rows: int
    columns: int
    dropout_rate: float


class Learned(NamedTuple):
    """What has a gradient. Axes of size 1 are for all.

    Attributes:
        query: `(batch, kv_heads, group, query, head_dim)`.
        key: `(batch, kv_heads, key, head_dim)`.
        value: `(batch, kv_heads, key, value_dim)`.
        bias: for `Plan.rule`, `(batch|1, kv_heads|1, group|1, query|1, key|1)`.
        sinks: a score for each head that takes weight and has no value, `(kv_heads, group)`.
        arrays: what else `Plan.rule` reads.
    """

    query: Float[Tensor, "batch kv_heads group query head_dim"]
    key: Float[Tensor, "batch kv_heads key head_dim"]
    value: Float[Tensor, "batch kv_heads key value_dim"]
    bias: Float[Tensor, "..."] | None
    sinks: Float[Tensor, "kv_heads group"] | None
    arrays: tuple[Tensor, ...]


class Fixed(NamedTuple):
    """What has no gradient. Axes of size 1 are for all.

    Attributes:
        tiling: the tiles to visit.
        mask: True where the query attends to the key, `(batch|1, kv_heads|1, group|1, query|1, key|1)`.
        keep: False where a weight is dropped, likewise.
        known: what `Plan.rule` reads to tell whom a query sees.
    """

    tiling: Tiling
    mask: Bool[Tensor, "..."] | None
    keep: Bool[Tensor, "..."] | None
    known: Any


class Tile(NamedTuple):
    """Row i and one column of the tiles, of all batch elements and heads."""

    plan: Plan
    fixed: Fixed
    i: int
    live: Live

    def columns(self, x: Tensor, *, dtype: torch.dtype) -> Tensor:
        """The keys or values of the tile."""
        return cut(x, -2, self.live.column, self.plan.columns).to(dtype)

    def place(self, query: Tensor, key: Tensor) -> Place:
        """Where the tile lies."""
        batch, kv_heads, group, query_len, _ = query.shape
        count = partial(torch.arange, device=query.device)
        return Place(
            count(batch)[:, None, None, None, None],
            count(kv_heads * group).reshape(kv_heads, group, 1, 1),
            cut(count(query_len)[:, None], -2, self.i, self.plan.rows),
            cut(count(key.shape[-2]), -1, self.live.column, self.plan.columns),
        )

    def of(self, x: Tensor) -> Tensor:
        """The part of a bias or mask that lies on this tile."""
        return cut(cut(x, -2, self.i, self.plan.rows), -1, self.live.column, self.plan.columns)

    def number(self, x: Tensor) -> tuple[int, int]:
        """Row and column of the tile among those of a bias; an axis of size 1 has one."""
        return (0 if x.shape[-2] == 1 else self.i, 0 if x.shape[-1] == 1 else self.live.column)

    def hidden(self, scores: Tensor, place: Place) -> Tensor:
        """Scores of -inf where the query does not see the key."""
        if not self.live.is_partial:
            return scores
        visible = self.plan.rule.visible(self.fixed.known, place)
        if self.fixed.mask is not None:
            visible = visible & self.of(self.fixed.mask)
        return torch.where(visible, scores, -torch.inf)

    def kept(self, shares: Tensor) -> Tensor:
        """Shares with some dropped, and the others larger for it."""
        if self.fixed.keep is None:
            return shares
        return torch.where(self.of(self.fixed.keep), shares / (1.0 - self.plan.dropout_rate), 0.0)
