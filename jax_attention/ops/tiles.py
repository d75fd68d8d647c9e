"""Which tiles of the (query, key) plane have something to see.

Blockwise attention walks over the plane tile by tile. What hides keys by their place (causal, a window) or by a
mask leaves most tiles either dead, all hidden, or full, all visible. Dead ones are never visited, full ones need no
mask; so a causal plane costs half, and a window costs in proportion to the length.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Int

from jax_attention.ops.visibility import Visibility


class Tiling(NamedTuple):
    """The order in which each row of tiles is walked: full tiles, then partial ones, and no dead one.

    Attributes:
        order: numbers of the tiles along the keys, `(..., rows, columns)`.
        full: how many of them are full, `(..., rows)`.
        live: how many are full or partial, `(..., rows)`.
    """

    order: Int[Array, "... rows columns"]
    full: Int[Array, "... rows"]
    live: Int[Array, "... rows"]


def tile_size(length: int, most: int) -> int:
    """The size of the fewest tiles of nearly equal size, each of at most `most`, that cover `length`."""
    count = max(1, -(-length // most))
    return max(1, -(-length // count))


def tiling(live: Bool[Array, "... rows columns"], full: Bool[Array, "... rows columns"]) -> Tiling:
    """Sort tiles by what is to be done with them."""
    rank = jnp.where(full, 0, jnp.where(live, 1, 2))
    return Tiling(jnp.argsort(rank, axis=-1, stable=True), (rank == 0).sum(-1), (rank < 2).sum(-1))


def tiles_by_place(
    lengths: tuple[int, int],
    sizes: tuple[int, int],
    *,
    visibility: Visibility,
) -> tuple[Bool[Array, "batch rows columns"], Bool[Array, "batch rows columns"]]:
    """Which tiles are live, and which full, by the places of their queries and keys alone.

    Args:
        lengths: of queries and keys.
        sizes: of a tile along both.
        visibility: whom each query sees by its place.

    Returns:
        With a batch of 1 where all batch elements are alike.
    """
    (query_len, key_len), (rows, columns) = lengths, sizes
    first_query = jnp.arange(-(-query_len // rows))[None, :, None] * rows  # 1 rows 1
    last_query = first_query + rows - 1
    first_key = jnp.arange(-(-key_len // columns))[None, None] * columns  # 1 1 columns
    last_key = first_key + columns - 1
    live = jnp.broadcast_to(first_key < key_len, (1, first_query.shape[1], first_key.shape[2]))
    full = jnp.broadcast_to(last_key < key_len, live.shape)
    before, after = visibility.before, visibility.after
    offset = jnp.reshape(visibility.query_offset, (-1, 1, 1))  # batch|1 1 1
    if after is not None:
        live = live & (first_key <= last_query + offset + after)
        full = full & (last_key <= first_query + offset + after)
    if before is not None:
        live = live & (last_key >= first_query + offset - before)
        full = full & (first_key >= last_query + offset - before)
    if visibility.query_lengths is not None:
        length = visibility.query_lengths[:, None, None]  # batch 1 1
        live, full = live & (first_query < length), full & (last_query < length)
    if visibility.key_lengths is not None:
        length = visibility.key_lengths[:, None, None]  # batch 1 1
        live, full = live & (first_key < length), full & (last_key < length)
    if visibility.query_segments is not None and visibility.key_segments is not None:
        first, last = (x[:, :, None] for x in _spans(visibility.query_segments, rows))  # batch rows 1
        lowest, highest = (x[:, None] for x in _spans(visibility.key_segments, columns))  # batch 1 columns
        live = live & (first <= highest) & (lowest <= last)
        full = full & (first == last) & (lowest == highest) & (first == lowest)
    return live, full


def _spans(
    segments: Int[Array, "batch length"], size: int
) -> tuple[Int[Array, "batch tiles"], Int[Array, "batch tiles"]]:
    """The least and the largest number in each tile."""
    tiles = jnp.pad(segments, ((0, 0), (0, -segments.shape[1] % size)), mode="edge")
    tiles = tiles.reshape(tiles.shape[0], -1, size)
    return tiles.min(-1), tiles.max(-1)


def tiles_by_mask(
    mask: Bool[Array, "... query key"], sizes: tuple[int, int]
) -> tuple[Bool[Array, "... rows columns"], Bool[Array, "... rows columns"]]:
    """Which tiles are live, and which full, by a mask padded to whole tiles; an axis of size 1 stays one."""
    *batch, query_len, key_len = mask.shape
    (rows, row), (columns, column) = _cut(query_len, sizes[0]), _cut(key_len, sizes[1])
    tiles = mask.reshape(*batch, rows, row, columns, column)
    return tiles.any(axis=(-3, -1)), tiles.all(axis=(-3, -1))


def pad_axis(x: Array, axis: int, size: int) -> Array:
    """Zeros behind the end of an axis until it is a multiple of `size`; an axis of size 1 is for all, and stays."""
    length = x.shape[axis]
    if length == 1 or length % size == 0:
        return x
    widths = [(0, -length % size) if i == axis % x.ndim else (0, 0) for i in range(x.ndim)]
    return jnp.pad(x, widths)


def one_of(x: Array, n: Array, g: Array) -> Array:
    """What an array `(batch|1, kv_heads|1, ...)` holds for batch element n and key/value head g."""
    return x[n if x.shape[0] > 1 else 0, g if x.shape[1] > 1 else 0]


def tile_of(x: Array, n: Array, g: Array, i: Array | int, j: Array | int, rows: int, columns: int) -> Array:
    """Of an array `(batch|1, kv_heads|1, group|1, query|1, key|1)` what lies on a tile; no more of it is read."""
    start, shape = _span(x.shape[2:], i, j, rows, columns)
    start = (n if x.shape[0] > 1 else 0, g if x.shape[1] > 1 else 0, *start)
    return lax.dynamic_slice(x, start, (1, 1, *shape))[0, 0]


def add_tile(
    x: Array, part: Array, n: Array, g: Array, i: Array | int, j: Array | int, rows: int, columns: int
) -> Array:
    """Add to what of an array `(batch|1, kv_heads|1, group|1, query|1, key|1)` lies on a tile."""
    start, shape = _span(x.shape[2:], i, j, rows, columns)
    start = (n if x.shape[0] > 1 else 0, g if x.shape[1] > 1 else 0, *start)
    before = lax.dynamic_slice(x, start, (1, 1, *shape))
    return lax.dynamic_update_slice(x, before + part, start)


def _span(
    shape: tuple[int, ...], i: Array | int, j: Array | int, rows: int, columns: int
) -> tuple[tuple[int | Array, ...], tuple[int, ...]]:
    group, query_len, key_len = shape
    start = (0, i * rows if query_len > 1 else 0, j * columns if key_len > 1 else 0)
    return start, (group, min(query_len, rows), min(key_len, columns))


def _cut(length: int, size: int) -> tuple[int, int]:
    return (1, 1) if length == 1 else (length // size, size)
