"""Local attention in linear time, computed as dense attention of many short blocks.

The queries are split into blocks, and each block attends to the blocks of keys within reach of its queries. The blocks
become batch elements: block m of batch element n is element n · count + m. A mask hides the gathered keys that a query
may not attend to.
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
SMALL = 32  # minimum queries per block: smaller matrix products are slow
SHORT = 256  # up to this length, all scores are computed at once


@dataclass(frozen=True)
class Blocks:
    """Partition of a sequence into blocks of queries, with the key blocks that each gathers.

    Attributes:
        length: length of the sequence.
        size: number of queries in a block; the last block is padded.
        count: number of blocks.
        before, after: number of key blocks gathered before and after a block's own.
        first: number of keys at the start of the sequence that every block gathers too.
    """

    length: int
    size: int
    count: int
    before: int
    after: int
    first: int

    def queries(self, x: Shaped[Tensor, "batch heads length dim"]) -> Shaped[Tensor, "blocks heads size dim"]:
        """Split queries into blocks, as batch elements."""
        cut = self._cut(x, 0, 0)  # batch heads count size dim
        return rearrange(cut, "b h m s d -> (b m) h s d")

    def keys(self, x: Float[Tensor, "batch heads length dim"]) -> Float[Tensor, "blocks heads span dim"]:
        """Gather the keys or values of each query block."""
        cut = self._cut(x, self.before, self.after)  # batch heads before+count+after size dim
        met = [cut[:, :, i : i + self.count] for i in range(self.before + 1 + self.after)]
        if self.first:
            met.insert(0, repeat(x[:, :, : self.first], "b h s d -> b h m s d", m=self.count))
        return rearrange(torch.concatenate(met, dim=3), "b h m s d -> (b m) h s d")

    def join(self, x: Float[Tensor, "blocks heads size *dim"]) -> Float[Tensor, "batch heads length *dim"]:
        """Join blocks of queries into sequences: the inverse of `queries`."""
        return rearrange(x, "(b m) h s ... -> b h (m s) ...", m=self.count)[:, :, : self.length]

    def numbers(
        self, before: int, after: int, first: int, *, device: torch.device | str | None
    ) -> Int[Tensor, "count span"]:
        """Sequence indices of the elements gathered for each block.

        Args:
            before, after: number of blocks gathered before and after a block's own.
            first: number of elements gathered from the start of the sequence.
            device: device of the result.

        Returns:
            Indices `(count, span)`, outside the sequence for padding.
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
        """Mask of the gathered keys that each query may attend to; None if it may attend to all.

        Args:
            sees: function of query and key indices, True where a query may attend to a key; None for all.
            mask: boolean mask, True where a query may attend to a key; combined with `sees`. None for no mask.
            shape: shape of the full attention weights, `(batch, heads, length, length)`.
            device: device of the result.
        """
        seen = None if mask is None else self.pairs(align("mask", mask, shape))
        if sees is not None:
            query = self.numbers(0, 0, 0, device=device)[..., None]  # count size 1
            key = self.numbers(self.before, self.after, self.first, device=device)[:, None]  # count 1 span
            column = torch.arange(key.shape[-1], device=device)
            once = (key >= self.first) | (column < self.first)[
                None, None
            ]  # the first keys count once, though the window may gather them again
            by_number = (sees(query, key) & once & (key < self.length))[None, None]
            seen = by_number if seen is None else seen & by_number
        if seen is None:
            return None
        seen = torch.broadcast_to(seen, (shape[0], seen.shape[1], self.count, *seen.shape[3:]))
        return rearrange(seen, "b h m s k -> (b m) h s k")

    def pairs(self, x: Bool[Tensor, "... query key"]) -> Bool[Tensor, "batch heads count size span"]:
        """Gather the entries of each block from `(batch|1, heads|1, length|1, length|1)`; axes of size 1 stay."""
        query = self.numbers(0, 0, 0, device=x.device)[..., None]  # count size 1
        key = self.numbers(self.before, self.after, self.first, device=x.device)[:, None]  # count 1 span
        query, key = (torch.clip(number, 0, self.length - 1) for number in (query, key))
        query = 0 * query[:, :1] if x.shape[2] == 1 else query
        key = 0 * key[..., :1] if x.shape[3] == 1 else key
        return x[:, :, query, key]  # reads only the gathered pairs

    def kept(
        self, keep: Bool[Tensor, "batch heads length length"] | None
    ) -> Bool[Tensor, "blocks heads size span"] | None:
        """Gather the entries of a dropout mask of each block."""
        return None if keep is None else rearrange(self.pairs(keep), "b h m s k -> (b m) h s k")

    def places(
        self,
        positions: Int[Tensor, "..."] | None,
        position: nn.Module | None,
        batch: int,
        *,
        device: torch.device | str | None,
    ) -> tuple[Int[Tensor, "blocks size *axes"], Int[Tensor, "blocks span *axes"]]:
        """Positions of the queries and keys of each block; None counts from 0 on every axis."""
        positions = counted(positions, position, batch, self.length, device=device)
        query = self.numbers(0, 0, 0, device=device)  # count size
        key = self.numbers(self.before, self.after, self.first, device=device)  # count span
        query, key = (torch.clip(number, 0, self.length - 1) for number in (query, key))
        of_query, of_key = positions[:, query], positions[:, key]  # batch count size|span *axes
        return rearrange(of_query, "b m s ... -> (b m) s ..."), rearrange(of_key, "b m s ... -> (b m) s ...")

    def _cut(
        self, x: Shaped[Tensor, "batch heads length dim"], before: int, after: int
    ) -> Shaped[Tensor, "batch heads blocks size dim"]:
        """Split into blocks of `size`, with blocks of zeros before and after."""
        filling = self.count * self.size - self.length + after * self.size
        first, last = (
            torch.zeros((*x.shape[:2], count, x.shape[3]), dtype=x.dtype, device=x.device)
            for count in (before * self.size, filling)
        )
        return rearrange(torch.concatenate([first, x, last], dim=2), "b h (m s) d -> b h m s d", s=self.size)


def blocks_of(
    length: int, before: int, after: int, *, first: int = 0, size: int | None = None
) -> Blocks | None:
    """Choose blocks for a local pattern; None if the sequence is short enough for one block.

    Args:
        length: length of the sequence.
        before, after: maximum number of visible keys before and after the query's own.
        first: number of keys at the start of the sequence that all queries may attend to.
        size: number of queries in a block; None for the larger of `before` and `after`, and at least `SMALL`.
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
    """Broadcast positions to every batch element; None counts from 0 on every axis of the positional encoding."""
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
    """Whether a positional encoding adds a bias to the scores, as `ALiBi` does; rotary ones do not."""
    return place(position, query[:, :, :1], key[:, :, :1]).bias is not None


def is_recent(
    query: Int[Tensor, "..."], key: Int[Tensor, "..."], *, window: int, is_causal: bool = True
) -> Bool[Tensor, "..."]:
    """Whether a key is among the last `window` keys up to the query's own, or the next ones, from their indices."""
    near = key <= query if is_causal else key < query + window
    return near & (key > query - window)


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
    """Compute `attend` without weights, block by block, for a local pattern.

    Args:
        layer: attention layer; its positional encoding is applied to the queries and keys of each block.
        blocks: partition of the sequence.
        query, key, value: projections of the whole sequence, before positional encoding.
        mask: boolean mask, True where a query may attend to a key; None for no mask.
        sees: function of query and key indices, True where a query may attend to a key; None for causal attention
            within each block, which then gathers no other block.
        call: arguments of the call; `positions` and `dropout_keep` are used.
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
