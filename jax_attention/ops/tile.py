"""A tile of the plane of queries and keys: what is decided, learned and fixed, and what lies on it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jax_attention.ops.rules import Place, Rule
from jax_attention.ops.tiles import Tiling, add_tile, tile_of


class Plan(NamedTuple):
    """What is decided before any number is seen.

    Attributes:
        rule: how products become scores.
        key_len: how many keys there are; what follows fills the last tile.
        rows: queries in a tile.
        columns: keys in a tile.
        dropout_rate: the probability with which `Fixed.keep` was drawn.
    """

    rule: Rule
    key_len: int
    rows: int
    columns: int
    dropout_rate: float


class Learned(NamedTuple):
    """What has a gradient. Axes of size 1 are for all.

    Attributes:
        query: `(batch, kv_heads, group, query, head_dim)`, padded to whole tiles as all that follows.
        key: `(batch, kv_heads, key, head_dim)`.
        value: `(batch, kv_heads, key, value_dim)`.
        bias: for `Plan.rule`, `(batch|1, kv_heads|1, group|1, query|1, key|1)`.
        sinks: a score for each head that takes weight and has no value, `(kv_heads, group)`.
        arrays: what else `Plan.rule` reads.
    """

    query: Float[Array, "batch kv_heads group query head_dim"]
    key: Float[Array, "batch kv_heads key head_dim"]
    value: Float[Array, "batch kv_heads key value_dim"]
    bias: Float[Array, "..."] | None
    sinks: Float[Array, "kv_heads group"] | None
    arrays: tuple[Array, ...]


class Fixed(NamedTuple):
    """What has no gradient. Axes of size 1 are for all.

    Attributes:
        tiling: the order of tiles, with axes `(batch|1, kv_heads|1, rows)`.
        mask: True where the query attends to the key, `(batch|1, kv_heads|1, group|1, query|1, key|1)`.
        keep: False where a weight is dropped, likewise.
        known: what `Plan.rule` reads to tell whom a query sees.
    """

    tiling: Tiling
    mask: Bool[Array, "..."] | None
    keep: Bool[Array, "..."] | None
    known: Any


class Tile(NamedTuple):
    """Row i and column j of the tiles of batch element n and key/value head g."""

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
        """Where the tile lies."""
        heads = self.g * self.group + jnp.arange(self.group)[:, None, None]
        queries = self.i * self.plan.rows + jnp.arange(self.plan.rows)[:, None]
        keys = self.j * self.plan.columns + jnp.arange(self.plan.columns)
        return Place(*(numbers.astype(jnp.int32) for numbers in (self.n, heads, queries, keys)))

    def of(self, x: Array) -> Array:
        """The part of a bias or mask that lies on this tile."""
        return tile_of(x, self.n, self.g, self.i, self.j, self.plan.rows, self.plan.columns)

    def add(self, x: Array, part: Array) -> Array:
        """Add to the part of a bias that lies on this tile."""
        return add_tile(x, part, self.n, self.g, self.i, self.j, self.plan.rows, self.plan.columns)

    def hidden(self, scores: Array) -> Array:
        """Scores of -inf where the query does not see the key."""
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
        """Shares with some dropped, and the others larger for it."""
        if self.fixed.keep is None:
            return shares
        return jnp.where(self.of(self.fixed.keep), shares / (1.0 - self.plan.dropout_rate), 0.0)
