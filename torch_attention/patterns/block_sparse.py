"""BigBird attention in linear time: each block of queries is computed only with the key blocks visible to it."""

from typing import Unpack

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from torch_attention.checks import align, dtype_name
from torch_attention.frame import SelfAttentionFrame, SelfCall
from torch_attention.ops import Placed, attend
from torch_attention.patterns.blocks import adds_bias, counted
from torch_attention.positions.protocol import place


def met_blocks(
    num_blocks: int,
    random_blocks: Int[Tensor, "heads blocks random"] | None,
    *,
    window_blocks: int,
    global_blocks: int,
    device: torch.device | str | None,
) -> tuple[Int[Tensor, "heads blocks met"], Bool[Tensor, "heads blocks met"]]:
    """Indices of the key blocks gathered for each query block, and which of them are valid.

    Each row holds the window, the global blocks and the random blocks. A duplicate is valid once, and an index outside
    the sequence is invalid. Without random blocks the result has one head. Rows of global query blocks are not used.
    """
    block = torch.arange(num_blocks, device=device)  # blocks
    reach = window_blocks // 2
    around = block[:, None] + torch.arange(window_blocks, device=device)[None] - reach  # blocks window
    ends = torch.concatenate([block[:global_blocks], block[num_blocks - global_blocks :]])
    ends = torch.broadcast_to(ends, (num_blocks, 2 * global_blocks))  # blocks ends
    met = [around[None], ends[None]]
    counts = [(around >= 0) & (around < num_blocks), abs(ends - block[:, None]) > reach]
    counts = [each[None] for each in counts]
    if random_blocks is not None:
        random_blocks = random_blocks.to(block.dtype)
        exists = (random_blocks >= global_blocks) & (random_blocks < num_blocks - global_blocks)
        order = torch.arange(random_blocks.shape[-1], device=device)
        same = random_blocks[..., :, None] == random_blocks[..., None, :]  # heads blocks random random
        again = (same & (order[None] < order[:, None])[None, None]).any(-1)
        far = abs(random_blocks - block[None, :, None]) > reach
        heads = random_blocks.shape[0]
        met = [torch.broadcast_to(each, (heads, *each.shape[1:])) for each in met]
        counts = [torch.broadcast_to(each, (heads, *each.shape[1:])) for each in counts]
        met.append(random_blocks)
        counts.append(exists & far & ~again)
    numbers = torch.clip(torch.concatenate(met, dim=-1), 0, num_blocks - 1)
    return numbers, torch.concatenate(counts, dim=-1)


def block_sparse_heads(
    layer: SelfAttentionFrame,
    query: Float[Tensor, "batch heads length head_dim"],
    key: Float[Tensor, "batch heads length head_dim"],
    value: Float[Tensor, "batch heads length head_dim"],
    mask: Bool[Tensor, "..."] | None,
    random_blocks: Int[Tensor, "heads blocks random"] | None,
    *,
    block_size: int,
    window_blocks: int,
    global_blocks: int,
    **call: Unpack[SelfCall],
) -> Float[Tensor, "batch heads length head_dim"]:
    """Compute BigBird attention block by block; arguments as in `BigBirdAttention`, before positional encoding."""
    batch, num_heads, length, _ = query.shape
    count = length // block_size
    position, positions, dropout_keep = layer.position, call.get("positions"), call.get("dropout_keep")
    if not adds_bias(position, query, key):  # rotations need no knowledge of the blocks
        placed = place(position, query, key, positions, positions)
        query, key, position = placed.query, placed.key, None
    places = counted(positions, position, batch, length, device=query.device)
    met, counts = met_blocks(
        count,
        random_blocks,
        window_blocks=window_blocks,
        global_blocks=global_blocks,
        device=query.device,
    )
    mask = None if mask is None else align("mask", mask, (batch, num_heads, length, length))
    offsets = torch.arange(block_size, device=query.device)
    keys = rearrange(
        met[..., None] * block_size + offsets[None, None, None], "h m c s -> h m (c s)"
    )  # heads|1 count span

    def of_blocks(x: Shaped[Tensor, "batch heads length dim"]) -> Shaped[Tensor, "blocks heads span dim"]:
        """Gather the keys or values of each query block."""
        whole = rearrange(x, "b h (m s) d -> b h m (s d)", s=block_size)
        index = rearrange(met, "h m c -> 1 h (m c) 1")
        found = torch.take_along_dim(whole, index, dim=2)
        return rearrange(found, "b h (m c) (s d) -> (b m) h (c s) d", m=count, s=block_size)

    def of_pairs(x: Bool[Tensor, "... query key"]) -> Bool[Tensor, "batch heads count size span"]:
        """Gather the entries of a mask that belong to each query block; axes of size 1 stay."""
        heads = torch.arange(x.shape[1], device=x.device)[:, None, None, None]
        rows = torch.arange(length if x.shape[2] > 1 else count, device=x.device)
        rows = rearrange(rows, "(m s) -> 1 m s 1", m=count)
        columns = keys[:, :, None]  # heads|1 count 1 span
        rows = rows if x.shape[2] > 1 else 0 * rows
        columns = columns if x.shape[3] > 1 else 0 * columns[..., :1]
        return x[:, heads, rows, columns]

    seen = repeat(counts, "h m c -> 1 h m 1 (c s)", s=block_size)
    seen = seen if mask is None else seen & of_pairs(mask)
    seen = torch.broadcast_to(seen, (batch, *seen.shape[1:]))
    of_query = rearrange(places, "b (m s) ... -> (b m) s ...", s=block_size)
    of_key = [rearrange(places[:, each], "b m k ... -> (b m) k ...") for each in keys]
    placed = place_by_head(
        position,
        rearrange(query, "b h (m s) d -> (b m) h s d", s=block_size),
        of_blocks(key),
        of_query,
        of_key,
    )
    keep = None if dropout_keep is None else rearrange(of_pairs(dropout_keep), "b h m s k -> (b m) h s k")
    heads, _ = attend(
        placed.query,
        placed.key,
        of_blocks(value),
        placed.bias,
        mask=rearrange(seen, "b h m s k -> (b m) h s k"),
        scale=layer.scale,
        need_weights=False,
        dropout_keep=layer.dropout.keep_weights(placed.query, placed.key, keep),
        dropout_rate=layer.dropout.rate,
    )
    heads = rearrange(heads, "(b m) h s d -> b h (m s) d", m=count)

    end = global_blocks * block_size
    if end == 0:
        return heads

    def of_ends(x: Shaped[Tensor, "batch heads length dim"]) -> Shaped[Tensor, "batch heads ends dim"]:
        """Select the rows of the global queries; an axis of size 1 stays."""
        return x if x.shape[2] == 1 else torch.concatenate([x[:, :, :end], x[:, :, length - end :]], dim=2)

    keep = None if dropout_keep is None else of_ends(dropout_keep)
    at_ends = torch.concatenate([places[:, :end], places[:, length - end :]], dim=1)
    placed = place(position, of_ends(query), key, at_ends, places)
    see_all, _ = attend(
        placed.query,
        placed.key,
        value,
        placed.bias,
        mask=None if mask is None else of_ends(mask),
        scale=layer.scale,
        need_weights=False,
        dropout_keep=layer.dropout.keep_weights(placed.query, placed.key, keep),
        dropout_rate=layer.dropout.rate,
    )
    return torch.concatenate(
        [see_all[:, :, :end], heads[:, :, end : length - end], see_all[:, :, end:]], dim=2
    )


def place_by_head(
    position: nn.Module | None,
    query: Float[Tensor, "blocks heads size head_dim"],
    key: Float[Tensor, "blocks heads span head_dim"],
    query_positions: Int[Tensor, "blocks size *axes"],
    key_positions: list[Int[Tensor, "blocks span *axes"]],
) -> Placed:
    """Apply a positional encoding to keys whose positions differ between heads.

    A positional encoding treats all heads alike, so it is called once for the positions of each head, and only this
    head of the result is kept.

    Args:
        position: positional encoding, such as `RotaryEmbedding`; None for none.
        query: queries, `(blocks, heads, size, head_dim)`.
        key: keys, `(blocks, heads, span, head_dim)`.
        query_positions: positions of the queries.
        key_positions: positions of the keys: one array per head, or one for all heads.
    """
    placed = place(position, query, key, query_positions, key_positions[0])
    key_of_each, bias = placed.key, placed.bias
    heads = torch.arange(query.shape[1], device=query.device)[None, :, None, None]
    for head, places in enumerate(key_positions[1:], 1):
        other = place(position, query, key, query_positions, places)
        key_of_each = torch.where(heads == head, other.key, key_of_each)
        if bias is not None and other.bias is not None:
            bias = torch.where(heads == head, other.bias, bias)
    return Placed(placed.query, key_of_each, bias)


def check_random_blocks(random_blocks: Tensor | None, num_heads: int, num_blocks: int) -> None:
    """Raise unless random blocks are None or integers of shape `(heads, blocks, random)`."""
    if random_blocks is None:
        return
    if not dtype_name(random_blocks).startswith("int"):
        raise TypeError(f"random_blocks must be integers, got {dtype_name(random_blocks)}")
    if random_blocks.ndim != 3 or tuple(random_blocks.shape[:2]) != (num_heads, num_blocks):
        raise ValueError(
            f"random_blocks must have shape (heads, blocks, random) = ({num_heads}, {num_blocks}, any), "
            f"got {tuple(random_blocks.shape)}"
        )
