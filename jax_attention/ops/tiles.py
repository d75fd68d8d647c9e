"""Tiles of the (query, key) plane with at least one visible pair.

Blockwise attention visits the plane tile by tile. Under a causal mask, a window or another mask, most tiles are dead
(fully masked) or full (fully visible). Dead tiles are skipped, and full tiles need no mask. So causal attention costs
half of full attention, and the cost of a window is linear in the length.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from jax_attention.ops.rules import Place, Rule, Visibility


class Tiling(NamedTuple):
    """Order in which each row of tiles is visited: full tiles, then partial ones; dead ones are skipped.

    Attributes:
        order: indices of the tiles along the keys, `(..., rows, columns)`.
        full: number of full tiles, `(..., rows)`.
        live: number of full and partial tiles, `(..., rows)`.
    """

    order: Int[Array, "... rows columns"]
    full: Int[Array, "... rows"]
    live: Int[Array, "... rows"]


def tile_size(length: int, most: int) -> int:
    """Size of nearly equal tiles that cover `length` with the fewest tiles of at most `most`."""
    count = max(1, -(-length // most))
    return max(1, -(-length // count))


def tiling(live: Bool[Array, "... rows columns"], full: Bool[Array, "... rows columns"]) -> Tiling:
    """Sort the tiles of each row: full ones, partial ones, dead ones."""
    rank = jnp.where(full, 0, jnp.where(live, 1, 2))
    return Tiling(jnp.argsort(rank, axis=-1, stable=True), (rank == 0).sum(-1), (rank < 2).sum(-1))


def tiles_by_place(
    lengths: tuple[int, int],
    sizes: tuple[int, int],
    *,
    visibility: Visibility,
) -> tuple[Bool[Array, "batch rows columns"], Bool[Array, "batch rows columns"]]:
    """Live tiles and full tiles according to positions, lengths and segments.

    Args:
        lengths: number of queries and number of keys.
        sizes: queries per tile and keys per tile.
        visibility: restrictions by position, length and segment.

    Returns:
        Boolean arrays of live and of full tiles, with a batch of 1 if all batch elements are alike.
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
    """Minimum and maximum in each tile."""
    tiles = jnp.pad(segments, ((0, 0), (0, -segments.shape[1] % size)), mode="edge")
    tiles = tiles.reshape(tiles.shape[0], -1, size)
    return tiles.min(-1), tiles.max(-1)


def tiles_by_mask(
    mask: Bool[Array, "... query key"], sizes: tuple[int, int]
) -> tuple[Bool[Array, "... rows columns"], Bool[Array, "... rows columns"]]:
    """Live tiles and full tiles according to a mask that is padded to whole tiles; axes of size 1 keep their size."""
    *batch, query_len, key_len = mask.shape
    (rows, row), (columns, column) = _cut(query_len, sizes[0]), _cut(key_len, sizes[1])
    tiles = mask.reshape(*batch, rows, row, columns, column)
    return tiles.any(axis=(-3, -1)), tiles.all(axis=(-3, -1))


def pad_axis(x: Array, axis: int, size: int) -> Array:
    """Pad an axis with zeros to a multiple of `size`; an axis of size 1 broadcasts and is not padded."""
    length = x.shape[axis]
    if length == 1 or length % size == 0:
        return x
    widths = [(0, -length % size) if i == axis % x.ndim else (0, 0) for i in range(x.ndim)]
    return jnp.pad(x, widths)


def one_of(x: Array, n: Array, g: Array) -> Array:
    """Select batch element n and key/value head g of an array `(batch|1, kv_heads|1, ...)`."""
    return x[n if x.shape[0] > 1 else 0, g if x.shape[1] > 1 else 0]


def tile_of(x: Array, n: Array, g: Array, i: Array | int, j: Array | int, rows: int, columns: int) -> Array:
    """Slice a tile of an array `(batch|1, kv_heads|1, group|1, query|1, key|1)` without reading the rest."""
    start, shape = _span(x.shape[2:], i, j, rows, columns)
    start = (n if x.shape[0] > 1 else 0, g if x.shape[1] > 1 else 0, *start)
    return lax.dynamic_slice(x, start, (1, 1, *shape))[0, 0]


def add_tile(
    x: Array, part: Array, n: Array, g: Array, i: Array | int, j: Array | int, rows: int, columns: int
) -> Array:
    """Add to a tile of an array `(batch|1, kv_heads|1, group|1, query|1, key|1)`."""
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


class Plan(NamedTuple):
    """Static arguments of blockwise attention.

    Attributes:
        rule: score and mask rule.
        key_len: number of keys without the padding of the last tile.
        rows: queries per tile.
        columns: keys per tile.
        dropout_rate: rate with which `Fixed.keep` was sampled.
    """

    rule: Rule
    key_len: int
    rows: int
    columns: int
    dropout_rate: float


class Learned(NamedTuple):
    """Arrays with gradients; axes of size 1 broadcast.

    Attributes:
        query: `(batch, kv_heads, group, query, head_dim)`, padded to whole tiles like all arrays below.
        key: `(batch, kv_heads, key, head_dim)`.
        value: `(batch, kv_heads, key, value_dim)`.
        bias: bias for `Plan.rule`, `(batch|1, kv_heads|1, group|1, query|1, key|1)`; None for none.
        sinks: score of the attention sink of each head, `(kv_heads, group)`; None for none.
        arrays: further arrays that `Plan.rule` reads.
    """

    query: Float[Array, "batch kv_heads group query head_dim"]
    key: Float[Array, "batch kv_heads key head_dim"]
    value: Float[Array, "batch kv_heads key value_dim"]
    bias: Float[Array, "..."] | None
    sinks: Float[Array, "kv_heads group"] | None
    arrays: tuple[Array, ...]


class Fixed(NamedTuple):
    """Arguments without gradients; axes of size 1 broadcast.

    Attributes:
        tiling: order of the tiles, with axes `(batch|1, kv_heads|1, rows)`.
        mask: boolean mask, True where a query may attend to a key,
            `(batch|1, kv_heads|1, group|1, query|1, key|1)`; None for no mask.
        keep: boolean dropout mask, True keeps, with the same axes; None for none.
        known: argument of `Plan.rule.visible`.
    """

    tiling: Tiling
    mask: Bool[Array, "..."] | None
    keep: Bool[Array, "..."] | None
    known: Any


class Tile(NamedTuple):
    """One tile, in row i and column j, of batch element n and key/value head g."""

    plan: Plan
    fixed: Fixed
    n: Array
    g: Array
    group: int
    i: Array | int
    j: Array | int
    is_partial: bool

    @property
    def place(self) -> Place:
        """Indices of the tile in the (query, key) plane."""
        heads = self.g * self.group + jnp.arange(self.group)[:, None, None]
        queries = self.i * self.plan.rows + jnp.arange(self.plan.rows)[:, None]
        keys = self.j * self.plan.columns + jnp.arange(self.plan.columns)
        return Place(*(numbers.astype(jnp.int32) for numbers in (self.n, heads, queries, keys)))

    def of(self, x: Array) -> Array:
        """Slice the part of a bias or mask that covers this tile."""
        return tile_of(x, self.n, self.g, self.i, self.j, self.plan.rows, self.plan.columns)

    def add(self, x: Array, part: Array) -> Array:
        """Add to the part of a bias that covers this tile."""
        return add_tile(x, part, self.n, self.g, self.i, self.j, self.plan.rows, self.plan.columns)

    def hidden(self, scores: Array) -> Array:
        """Set masked scores to -inf."""
        if not self.is_partial:
            return scores
        place = self.place
        visible = self.plan.rule.visible(self.fixed.known, place)
        visible = visible[(None,) * (3 - visible.ndim)]  # group|1 row|1 column
        visible = visible & (place.keys < self.plan.key_len)[None, None]
        if self.fixed.mask is not None:
            visible = visible & self.of(self.fixed.mask)
        return jnp.where(jnp.broadcast_to(visible, scores.shape), scores, -jnp.inf)

    def kept(self, shares: Array) -> Array:
        """Apply the dropout mask to the weights and rescale the kept ones."""
        if self.fixed.keep is None:
            return shares
        return jnp.where(self.of(self.fixed.keep), shares / (1.0 - self.plan.dropout_rate), 0.0)
