"""A tile of the plane of queries and keys: what is decided, learned and fixed, and what lies on it."""

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.ops.rules import Place, Rule
from torch_attention.ops.tiles import Live, Tiling, cut


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
