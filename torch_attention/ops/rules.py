"""Visibility of keys by position, window, length and segment, and the rules of blockwise attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import and_, or_
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torch_attention.arrays import as_integers_within
from torch_attention.ops.arrays import is_static

FAR = 2**29  # beyond every length; the sum of a position, an offset and a window side fits in 32 bits
ROWS = 4096  # queries whose visible keys are computed at once


def reach(
    is_causal: bool,
    window: int | tuple[int | None, int | None] | None,
    query_offset: int | Int[Tensor, "..."],
) -> tuple[int | None, int | None, int | Int[Tensor, "..."]]:
    """Number of visible keys before and after the query's own, None for no limit, and position of the first query.

    Numbers beyond every length are clipped to 32 bits, which does not change the visible keys.
    """
    if window is None:
        before, after = None, None
    else:
        before, after = window if isinstance(window, tuple | list) else (window - 1, 0)
    after = 0 if is_causal else after
    if not isinstance(query_offset, int) or not is_static(query_offset):
        before, after = (None if side is None or side >= 2 * FAR else int(side) for side in (before, after))
        return before, after, query_offset
    first = -FAR if before is None else _within(query_offset - int(before))
    last = FAR if after is None else _within(query_offset + int(after))
    offset = _within(query_offset)
    return None if first == -FAR else offset - first, None if last == FAR else last - offset, offset


def _within(position: int) -> int:
    """Clip a position to [-FAR, FAR], which is beyond every length."""
    return max(-FAR, min(FAR, position))


def as_positions(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Convert lengths or offsets to the dtype of positions, clipped to [-FAR, FAR]."""
    return as_integers_within(x, FAR)


def bounded(query_offset: int | Int[Tensor, ""]) -> Any:
    """Clip an offset to [-FAR, FAR], so that positions fit in 32 bits."""
    if not isinstance(query_offset, int):
        return as_positions(query_offset) if hasattr(query_offset, "dtype") else query_offset
    return _within(query_offset) if is_static(query_offset) else query_offset


class Visibility(NamedTuple):
    """Restrictions on the keys that each query attends to, with all batch axes flattened into one.

    Attributes:
        before, after: number of visible keys before and after the query's own; None for no limit.
        query_offset: position of the first query among the keys, one integer or one per batch element.
        query_lengths, key_lengths: number of real queries and keys of each batch element; None for no padding.
        query_segments, key_segments: segment numbers; a query attends only to keys of its segment. None for no limit.
    """

    before: int | None = None
    after: int | None = None
    query_offset: int | Int[Tensor, "..."] = 0
    query_lengths: Int[Tensor, "batch"] | None = None
    key_lengths: Int[Tensor, "batch"] | None = None
    query_segments: Int[Tensor, "batch query"] | None = None
    key_segments: Int[Tensor, "batch key"] | None = None

    @property
    def is_uniform(self) -> bool:
        """Whether the restrictions are the same for all batch elements: no lengths, no segments, one offset."""
        lengths = self.query_lengths, self.key_lengths, self.query_segments
        return all(x is None for x in lengths) and not _has_axes(self.query_offset)

    @property
    def is_total(self) -> bool:
        """Whether every query attends to every key."""
        return self.is_uniform and self.before is None and self.after is None


def sees(
    visibility: Visibility, batch: Int[Tensor, "..."], query: Int[Tensor, "..."], key: Int[Tensor, "..."]
) -> Bool[Tensor, "..."] | None:
    """Whether each query attends to each key, given their indices and the batch index; None for no restriction."""
    seen = []
    if visibility.before is not None or visibility.after is not None:
        position = query + _of_batch(visibility.query_offset, batch)
        if visibility.after is not None:
            seen.append(key <= position + visibility.after)
        if visibility.before is not None:
            seen.append(key >= position - visibility.before)
    if visibility.query_lengths is not None:
        seen.append(query < visibility.query_lengths[batch])
    if visibility.key_lengths is not None:
        seen.append(key < visibility.key_lengths[batch])
    if visibility.query_segments is not None and visibility.key_segments is not None:
        seen.append(visibility.query_segments[batch, query] == visibility.key_segments[batch, key])
    return reduce(and_, seen) if seen else None


def visible_pairs(
    visibility: Visibility, shape: Sequence[int], *, device: torch.device | str | None
) -> Bool[Tensor, "..."] | None:
    """Boolean mask that broadcasts to scores of that shape; None if every query attends to every key."""
    *batch, _, query_len, key_len = shape
    seen = sees(
        visibility, *_numbers(prod(batch), query_len, key_len, device=device)
    )  # batch|1 query|1 key|1
    if seen is None:
        return None
    axes = batch if seen.shape[0] == prod(batch) else (1,) * len(batch)
    return seen.reshape(*axes, 1, *seen.shape[1:])


def reached_keys(
    visibility: Visibility, shape: Sequence[int], *, device: torch.device | str | None
) -> Bool[Tensor, "... key"] | None:
    """Mask of the keys that at least one query attends to, `(batch|1, 1, key)`; None if this is known to be all."""
    *batch, _, query_len, key_len = shape
    if _reaches_all(visibility, query_len, key_len):
        return None
    number, query, key = _numbers(prod(batch), query_len, key_len, device=device)
    if visibility.query_segments is None:
        seen = _reached_by_place(visibility, query_len, key[0])
    else:
        starts = range(0, max(1, query_len), ROWS) if is_static(query_len) else (0,)
        length = ROWS if is_static(query_len) else query_len
        parts = [sees(visibility, number, query[:, i : i + length], key) for i in starts]
        seen = reduce(or_, [part.any(dim=-2) for part in parts if part is not None])
    axes = batch if seen.shape[0] == prod(batch) else (1,) * len(batch)
    return seen.reshape(*axes, 1, key_len)


def _reaches_all(visibility: Visibility, query_len: int, key_len: int) -> bool:
    """Whether it is known that at least one query attends to each key."""
    before, after, offset = visibility.before, visibility.after, visibility.query_offset
    if not visibility.is_uniform or not isinstance(offset, int) or (before is not None and offset > before):
        return False  # the first key may be masked for all queries
    if after is None or (query_len == key_len and offset + after >= 0):
        return True
    lengths_known = is_static(query_len) and is_static(key_len)
    return lengths_known and offset + query_len + after >= key_len


def _reached_by_place(
    visibility: Visibility, query_len: int, key: Int[Tensor, "1 key"]
) -> Bool[Tensor, "batch key"]:
    """Mask of the keys that at least one query attends to, without segments; windows of neighbours overlap."""
    offset: Any = visibility.query_offset
    offset = offset[:, None] if _has_axes(offset) else offset  # batch 1
    seen = [key >= 0]
    if visibility.before is not None:
        seen.append(key >= offset - visibility.before)
    if visibility.after is not None:
        seen.append(key < offset + query_len + visibility.after)
    if visibility.query_lengths is not None:
        count = visibility.query_lengths[:, None]
        seen.append(count > 0)
        if visibility.after is not None:
            seen.append(key < offset + count + visibility.after)
    if visibility.key_lengths is not None:
        seen.append(key < visibility.key_lengths[:, None])
    return reduce(and_, seen)


def _has_axes(x: int | Int[Tensor, "..."]) -> bool:
    """Whether there is one number per batch element."""
    return bool(getattr(x, "ndim", 0))


def _numbers(
    batch: int, query_len: int, key_len: int, *, device: torch.device | str | None
) -> tuple[Int[Tensor, "batch 1 1"], Int[Tensor, "1 query 1"], Int[Tensor, "1 1 key"]]:
    """Indices of batch elements, queries and keys, which broadcast against each other."""
    number, query, key = (torch.arange(length, device=device) for length in (batch, query_len, key_len))
    return number[:, None, None], query[None, :, None], key[None, None]


def _of_batch(x: Any, batch: Int[Tensor, "..."]) -> Any:
    """Select the number of each batch element; a single number is returned unchanged."""
    return x[batch] if _has_axes(x) else x


class Place(NamedTuple):
    """Indices of a tile of the (query, key) plane.

    Attributes:
        batch: indices of the batch elements.
        heads: indices of the query heads.
        queries: indices of the queries.
        keys: indices of the keys; all four broadcast against each other and against the tile.
    """

    batch: Int[Tensor, "..."]
    heads: Int[Tensor, "..."]
    queries: Int[Tensor, "... row 1"]
    keys: Int[Tensor, "column"]


@runtime_checkable
class Rule(Protocol):
    """Score and mask rule of an attention variant for blockwise attention."""

    @property
    def scale(self) -> float:
        """Factor on the scores."""

    def score(
        self,
        products: Float[Tensor, "... row column"],
        bias: Float[Tensor, "..."] | None,
        arrays: tuple[Tensor, ...],
        known: Any,
        place: Place,
    ) -> Float[Tensor, "... row column"]:
        """Compute the scores of a tile from scaled products, the bias of the tile and trainable arrays."""

    def visible(self, known: Any, place: Place) -> Bool[Tensor, "..."]:
        """Compute the mask of a tile from `known`, which holds arrays without gradients."""


@dataclass(frozen=True)
class DotProductRule:
    """Score and mask rule of `dot_product_attention`: scale, bias, softcap, and masking by position.

    Attributes:
        scale, softcap: as in `dot_product_attention_weights`.
    """

    scale: float
    softcap: float | None

    def score(
        self,
        products: Float[Tensor, "... row column"],
        bias: Float[Tensor, "..."] | None,
        arrays: tuple[Tensor, ...],
        known: Any,
        place: Place,
    ) -> Float[Tensor, "... row column"]:
        """Add the bias to the products, and apply the softcap."""
        scores = products if bias is None else products + bias
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        return scores

    def visible(self, known: Visibility, place: Place) -> Bool[Tensor, "..."]:
        """Mask of the keys that each query attends to according to `known`."""
        seen = sees(known, place.batch, place.queries, place.keys[None])
        return place.keys[None] >= 0 if seen is None else seen
