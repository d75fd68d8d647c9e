"""Masks defined by functions of one query-key pair, summarised block by block."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.checks import check_positive

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # of batch, head, query and key index


class BlockMask(NamedTuple):
    """Mask defined by a function, with its live and full blocks; `create_block_mask` makes it.

    Attributes:
        mask_mod: function of (b, h, i, j), True where query i of batch element b and head h attends to key j.
        live: True for blocks with at least one visible pair, `(batch|1, heads|1, query blocks, key blocks)`.
        full: True for blocks in which every pair is visible, of the same shape.
        lengths: number of queries and number of keys.
        block_size: queries per block and keys per block.
    """

    mask_mod: MaskMod
    live: Bool[Tensor, "batch heads rows columns"]
    full: Bool[Tensor, "batch heads rows columns"]
    lengths: tuple[int, int]
    block_size: tuple[int, int]


def and_masks(*mask_mods: MaskMod) -> MaskMod:
    """Combine mask functions by a logical and."""

    def every(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = mask_mods[0](b, h, i, j)
        for mask_mod in mask_mods[1:]:
            seen = seen & mask_mod(b, h, i, j)
        return seen

    return every


def or_masks(*mask_mods: MaskMod) -> MaskMod:
    """Combine mask functions by a logical or."""

    def some(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = mask_mods[0](b, h, i, j)
        for mask_mod in mask_mods[1:]:
            seen = seen | mask_mod(b, h, i, j)
        return seen

    return some


@checked
def create_block_mask(
    mask_mod: MaskMod,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    BLOCK_SIZE: int | tuple[int, int] = 128,
    *,
    device: torch.device | str | None = None,
) -> BlockMask:
    """Compute which blocks of a mask function are live, and which are full.

    Args:
        mask_mod: function of (b, h, i, j), True where query i of batch element b and head h attends to key j.
        B: number of batch elements; None for a mask that is the same for all.
        H: number of heads; None for a mask that is the same for all.
        Q_LEN, KV_LEN: number of queries and of keys.
        BLOCK_SIZE: queries and keys per block, as one integer or a pair.

    Raises:
        ValueError: a size below 1.
    """
    rows, columns = (BLOCK_SIZE, BLOCK_SIZE) if isinstance(BLOCK_SIZE, int) else BLOCK_SIZE
    check_positive(Q_LEN=Q_LEN, KV_LEN=KV_LEN, BLOCK_SIZE=min(rows, columns))
    counts = torch.arange(B or 1, device=device), torch.arange(H or 1, device=device)
    # Padding entries repeat the last one, which changes neither "any" nor "all".
    keys = torch.arange(-(-KV_LEN // columns) * columns, device=device).clamp(max=KV_LEN - 1)
    live, full = [], []
    for first in range(0, Q_LEN, rows):
        queries = (first + torch.arange(rows, device=device)).clamp(max=Q_LEN - 1)
        seen = over_plane(mask_mod)(*counts, queries, keys)  # batch heads row key
        seen = rearrange(seen, "b h q (columns k) -> b h columns (q k)", k=columns)
        live.append(seen.any(-1))
        full.append(seen.all(-1))
    return BlockMask(mask_mod, torch.stack(live, 2), torch.stack(full, 2), (Q_LEN, KV_LEN), (rows, columns))


def over_plane(mask_mod: MaskMod) -> Callable[..., Bool[Tensor, "batch heads query key"]]:
    """Vectorise a mask function over batch elements, heads, queries and keys."""
    by_key = torch.vmap(mask_mod, (None, None, None, 0))
    by_query = torch.vmap(by_key, (None, None, 0, None))
    by_head = torch.vmap(by_query, (None, 0, None, None))
    return torch.vmap(by_head, (0, None, None, None))
