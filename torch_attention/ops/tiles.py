"""Tiles of the (query, key) plane with at least one visible pair.

Blockwise attention visits the plane tile by tile. Under a causal mask, a window or another mask, most tiles are dead
(fully masked) or full (fully visible). Dead tiles are skipped, and full tiles need no mask. So causal attention costs
half of full attention, and the cost of a window is linear in the length.
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
    """Tile to visit: its index along the keys, and whether it needs a mask."""

    column: int
    is_partial: bool


Tiling = tuple[tuple[Live, ...], ...]  # one tuple per row of tiles


def tile_size(length: int, most: int) -> int:
    """Size of nearly equal tiles that cover `length` with the fewest tiles of at most `most`."""
    count = max(1, -(-length // most))
    return max(1, -(-length // count))


def tiling(
    lengths: tuple[int, int],
    sizes: tuple[int, int],
    *,
    visibility: Visibility,
    mask: Bool[Tensor, "... query key"] | None,
) -> Tiling:
    """Choose the tiles to visit; in compiled code, the values of a mask are unknown and it skips no tile.

    Args:
        lengths: number of queries and number of keys.
        sizes: queries per tile and keys per tile.
        visibility: restrictions by position, length and segment.
        mask: boolean mask, True where a query may attend to a key; any axis may have size 1. None for no mask.
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
                at = i % len(some), j % len(some[0])  # an axis of size 1 broadcasts
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
    """Tiles in which a mask is True somewhere, and everywhere, over all batch elements and heads."""
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
    """Slice one tile along an axis; the last one may be shorter, and an axis of size 1 broadcasts."""
    length = x.shape[axis]
    return x if length == 1 else x.narrow(axis, number * size, min(size, length - number * size))


def _span(x: int | Int[Tensor, "..."] | None) -> tuple[int, int] | None:
    """Minimum and maximum of integers; None if their values are unknown."""
    if x is None or isinstance(x, int):
        return None if x is None else (x, x)
    values = known_values(x)
    return None if values is None else (int(values.min()), int(values.max()))


def _tiles_by_segment(
    visibility: Visibility, sizes: tuple[int, int]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Tiles in which some query and key may share a segment, and in which all do; None if unknown."""
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
    """Static arguments of blockwise attention.

    Attributes:
        rule: score and mask rule.
        rows: queries per tile.
        columns: keys per tile.
        dropout_rate: rate with which `Fixed.keep` was sampled.
    """

    rule: Rule
    rows: int
    columns: int
    dropout_rate: float


class Learned(NamedTuple):
    """Arrays with gradients; axes of size 1 broadcast.

    Attributes:
        query: `(batch, kv_heads, group, query, head_dim)`.
        key: `(batch, kv_heads, key, head_dim)`.
        value: `(batch, kv_heads, key, value_dim)`.
        bias: bias for `Plan.rule`, `(batch|1, kv_heads|1, group|1, query|1, key|1)`; None for none.
        sinks: score of the attention sink of each head, `(kv_heads, group)`; None for none.
        arrays: further arrays that `Plan.rule` reads.
    """

    query: Float[Tensor, "batch kv_heads group query head_dim"]
    key: Float[Tensor, "batch kv_heads key head_dim"]
    value: Float[Tensor, "batch kv_heads key value_dim"]
    bias: Float[Tensor, "..."] | None
    sinks: Float[Tensor, "kv_heads group"] | None
    arrays: tuple[Tensor, ...]


class Fixed(NamedTuple):
    """Arguments without gradients; axes of size 1 broadcast.

    Attributes:
        tiling: tiles to visit.
        mask: boolean mask, True where a query may attend to a key,
            `(batch|1, kv_heads|1, group|1, query|1, key|1)`; None for no mask.
        keep: boolean dropout mask, True keeps, with the same axes; None for none.
        known: argument of `Plan.rule.visible`.
    """

    tiling: Tiling
    mask: Bool[Tensor, "..."] | None
    keep: Bool[Tensor, "..."] | None
    known: Any


class Tile(NamedTuple):
    """One tile, in row i, of all batch elements and heads."""

    plan: Plan
    fixed: Fixed
    i: int
    live: Live

    def columns(self, x: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Slice the keys or values of the tile."""
        return cut(x, -2, self.live.column, self.plan.columns).to(dtype)

    def place(self, query: Tensor, key: Tensor) -> Place:
        """Indices of the tile in the (query, key) plane."""
        batch, kv_heads, group, query_len, _ = query.shape
        count = partial(torch.arange, device=query.device)
        return Place(
            count(batch)[:, None, None, None, None],
            count(kv_heads * group).reshape(kv_heads, group, 1, 1),
            cut(count(query_len)[:, None], -2, self.i, self.plan.rows),
            cut(count(key.shape[-2]), -1, self.live.column, self.plan.columns),
        )

    def of(self, x: Tensor) -> Tensor:
        """Slice the part of a bias or mask that covers this tile."""
        return cut(cut(x, -2, self.i, self.plan.rows), -1, self.live.column, self.plan.columns)

    def number(self, x: Tensor) -> tuple[int, int]:
        """Row and column of the tile in a bias; 0 along axes of size 1."""
        return (0 if x.shape[-2] == 1 else self.i, 0 if x.shape[-1] == 1 else self.live.column)

    def hidden(self, scores: Tensor, place: Place) -> Tensor:
        """Set masked scores to -inf."""
        if not self.live.is_partial:
            return scores
        visible = self.plan.rule.visible(self.fixed.known, place)
        if self.fixed.mask is not None:
            visible = visible & self.of(self.fixed.mask)
        return torch.where(visible, scores, -torch.inf)

    def kept(self, shares: Tensor) -> Tensor:
        """Apply the dropout mask to the weights and rescale the kept ones."""
        if self.fixed.keep is None:
            return shares
        return torch.where(self.of(self.fixed.keep), shares / (1.0 - self.plan.dropout_rate), 0.0)
