"""Local attention as dense attention of many short sequences, so that its cost is linear in the length.

The queries are cut into blocks, and each block meets the blocks of keys that its queries can reach. The blocks of a
sequence stand in the batch: block m of batch element n is element n · count + m. What queries do not see of the
keys that their block meets is hidden by a mask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from torch_attention.checks import align
from torch_attention.frame import SelfAttentionFrame, SelfCall
from torch_attention.ops import attend
from torch_attention.ops.arrays import known_at_most
from torch_attention.positions.protocol import place

Sees = Callable[[Int[Tensor, "count size 1"], Int[Tensor, "count 1 span"]], Bool[Tensor, "count size span"]]
SMALL = 32  # queries in a block at least: below, products are too small to be fast
SHORT = 256  # up to this length all scores are made at once


@dataclass(frozen=True)
class Blocks:
    """How a sequence is cut.

    Attributes:
        length: of the sequence.
        size: queries in a block; the last one is filled up.
        count: how many blocks there are.
        before, after: how many blocks of keys a block of queries meets before and after its own.
        first: how many of the first keys it meets besides.
    """

    length: int
    size: int
    count: int
    before: int
    after: int
    first: int

    def queries(self, x: Shaped[Tensor, "batch heads length dim"]) -> Shaped[Tensor, "blocks heads size dim"]:
        """Block after block."""
        cut = self._cut(x, 0, 0)  # batch heads count size dim
        return rearrange(cut, "b h m s d -> (b m) h s d")

    def keys(self, x: Float[Tensor, "batch heads length dim"]) -> Float[Tensor, "blocks heads span dim"]:
        """The keys or values that each block of queries meets."""
        cut = self._cut(x, self.before, self.after)  # batch heads before+count+after size dim
        met = [cut[:, :, i : i + self.count] for i in range(self.before + 1 + self.after)]
        if self.first:
            met.insert(0, repeat(x[:, :, : self.first], "b h s d -> b h m s d", m=self.count))
        return rearrange(torch.concatenate(met, dim=3), "b h m s d -> (b m) h s d")

    def join(self, x: Float[Tensor, "blocks heads size *dim"]) -> Float[Tensor, "batch heads length *dim"]:
        """Queries in a row again: the inverse of `queries`."""
        return rearrange(x, "(b m) h s ... -> b h (m s) ...", m=self.count)[:, :, : self.length]

    def numbers(
        self, before: int, after: int, first: int, *, device: torch.device | str | None
    ) -> Int[Tensor, "count span"]:
        """Where in the sequence the elements of each block are, of so many blocks around it, and of the first ones.

        They lie outside of the sequence for those that fill up.
        """
        span = torch.arange((before + 1 + after) * self.size, device=device)
        start = (torch.arange(self.count, device=device) - before) * self.size
        around = start[:, None] + span[None]  # count span
        firsts = torch.arange(first, device=device)
        return torch.concatenate([repeat(firsts, "s -> m s", m=self.count), around], dim=-1)

    def visible(
        self,
        sees: Sees | None,
        mask: Bool[Tensor, "..."] | None,
        shape: tuple[int, ...],
        *,
        device: torch.device | str | None,
    ) -> Bool[Tensor, "blocks heads size span"] | None:
        """Which of the keys that it meets each query sees; None for all.

        Args:
            sees: whether a query sees a key, by their numbers; None for all.
            mask: as a module takes it; it can only hide more.
            shape: that of the whole weights, `(batch, heads, length, length)`.
        """
        seen = None if mask is None else self.pairs(align("mask", mask, shape))
        if sees is not None:
            query = self.numbers(0, 0, 0, device=device)[..., None]  # count size 1
            key = self.numbers(self.before, self.after, self.first, device=device)[:, None]  # count 1 span
            column = torch.arange(key.shape[-1], device=device)
            once = (key >= self.first) | (column < self.first)[
                None, None
            ]  # the first keys, met again among the others
            by_number = (sees(query, key) & once & (key < self.length))[None, None]
            seen = by_number if seen is None else seen & by_number
        if seen is None:
            return None
        seen = torch.broadcast_to(seen, (shape[0], seen.shape[1], self.count, *seen.shape[3:]))
        return rearrange(seen, "b h m s k -> (b m) h s k")

    def pairs(self, x: Bool[Tensor, "... query key"]) -> Bool[Tensor, "batch heads count size span"]:
        """What of an array `(batch|1, heads|1, length|1, length|1)` belongs to each block; axes of 1 stay."""
        query = self.numbers(0, 0, 0, device=x.device)[..., None]  # count size 1
        key = self.numbers(self.before, self.after, self.first, device=x.device)[:, None]  # count 1 span
        query, key = (torch.clip(number, 0, self.length - 1) for number in (query, key))
        query = 0 * query[:, :1] if x.shape[2] == 1 else query
        key = 0 * key[..., :1] if x.shape[3] == 1 else key
        return x[:, :, query, key]  # no more of it is read than is met

    def kept(
        self, keep: Bool[Tensor, "batch heads length length"] | None
    ) -> Bool[Tensor, "blocks heads size span"] | None:
        """What of a dropout mask belongs to each block."""
        return None if keep is None else rearrange(self.pairs(keep), "b h m s k -> (b m) h s k")

    def places(
        self,
        positions: Int[Tensor, "..."] | None,
        position: nn.Module | None,
        batch: int,
        *,
        device: torch.device | str | None,
    ) -> tuple[Int[Tensor, "blocks size *axes"], Int[Tensor, "blocks span *axes"]]:
        """Positions of the queries and keys of each block; None counts from 0, on every axis."""
        positions = counted(positions, position, batch, self.length, device=device)
        query = self.numbers(0, 0, 0, device=device)  # count size
        key = self.numbers(self.before, self.after, self.first, device=device)  # count span
        query, key = (torch.clip(number, 0, self.length - 1) for number in (query, key))
        of_query, of_key = positions[:, query], positions[:, key]  # batch count size|span *axes
        return rearrange(of_query, "b m s ... -> (b m) s ..."), rearrange(of_key, "b m s ... -> (b m) s ...")

    def _cut(
        self, x: Shaped[Tensor, "batch heads length dim"], before: int, after: int
    ) -> Shaped[Tensor, "batch heads blocks size dim"]:
        """Cut into blocks of `size`, with blocks of zeros before and after."""
        filling = self.count * self.size - self.length + after * self.size
        first, last = (
            torch.zeros((*x.shape[:2], count, x.shape[3]), dtype=x.dtype, device=x.device)
            for count in (before * self.size, filling)
        )
        return rearrange(torch.concatenate([first, x, last], dim=2), "b h (m s) d -> b h m s d", s=self.size)


def blocks_of(
    length: int, before: int, after: int, *, first: int = 0, size: int | None = None
) -> Blocks | None:
    """The blocks for queries that reach so many keys before and after their own; None for one short sequence.

    Args:
        length: of the sequence.
        before, after: how many keys a query sees at most before and after its own.
        first: how many of the first keys it sees besides.
        size: of a block; the longer reach if None.
    """
    size = max(before, after, SMALL) if size is None else size
    if known_at_most(length, max(SHORT, size, first)):
        return None
    return Blocks(length, size, -(-length // size), int(before > 0), int(after > 0), first)


def counted(
    positions: Int[Tensor, "..."] | None,
    position: nn.Module | None,
    batch: int,
    length: int,
    *,
    device: torch.device | str | None,
) -> Int[Tensor, "batch length *axes"]:
    """The positions of all batch elements; None counts from 0, on every axis of the scheme."""
    axes = getattr(position, "num_axes", None)
    if positions is None:
        positions = torch.arange(length, device=device)
        positions = positions if axes is None else repeat(positions, "length -> length axes", axes=axes)
    if positions.ndim == (1 if axes is None else 2):
        positions = torch.broadcast_to(positions, (batch, *positions.shape))
    return positions


def adds_bias(
    position: nn.Module | None,
    query: Float[Tensor, "batch heads query head_dim"],
    key: Float[Tensor, "batch kv_heads key head_dim"],
) -> bool:
    """Whether a scheme adds a bias to the scores, a number for each pair; those that turn do not."""
    return place(position, query[:, :, :1], key[:, :, :1]).bias is not None


def is_recent(query: Int[Tensor, "..."], key: Int[Tensor, "..."], *, window: int) -> Bool[Tensor, "..."]:
    """Whether a key is one of the last `window` keys up to a query's own, by their numbers."""
    return (key <= query) & (key > query - window)


def local_attention(
    layer: SelfAttentionFrame,
    blocks: Blocks,
    query: Float[Tensor, "batch heads length head_dim"],
    key: Float[Tensor, "batch kv_heads length head_dim"],
    value: Float[Tensor, "batch kv_heads length value_dim"],
    mask: Bool[Tensor, "..."] | None,
    *,
    sees: Sees | None,
    **call: Unpack[SelfCall],
) -> Float[Tensor, "batch heads length value_dim"]:
    """`attend` without weights, for queries that see no keys but those that their block meets.

    Args:
        layer: the class that attends; its position scheme places the queries and keys of each block.
        blocks: how the sequence is cut.
        query, key, value: not yet placed.
        mask: as a module takes it.
        sees: whether a query sees a key, by their numbers; None for those up to its own, in blocks that meet no other.
        call: the call's arguments, of which blocks read `positions` and `dropout_keep`.
    """
    batch, heads, length, _ = query.shape
    places = blocks.places(call.get("positions"), layer.position, batch, device=query.device)
    placed = place(layer.position, blocks.queries(query), blocks.keys(key), *places)
    keep = blocks.kept(call.get("dropout_keep"))
    output, _ = attend(
        placed.query,
        placed.key,
        blocks.keys(value),
        placed.bias,
        blocks.visible(sees, mask, (batch, heads, length, length), device=query.device),
        is_causal=sees is None,
        scale=layer.scale,
        need_weights=False,
        dropout_keep=layer.dropout.keep_weights(placed.query, placed.key, keep),
        dropout_rate=layer.dropout.rate,
    )
    return blocks.join(output)
