"""Masks defined by functions of one query-key pair, summarised block by block."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array, lax
from jaxtyping import Bool

from jax_attention.arguments import checked
from jax_attention.checks import check_positive

MaskMod = Callable[[Array, Array, Array, Array], Array]  # of batch, head, query and key index


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
    live: Bool[Array, "batch heads rows columns"]
    full: Bool[Array, "batch heads rows columns"]
    lengths: tuple[int, int]
    block_size: tuple[int, int]


def and_masks(*mask_mods: MaskMod) -> MaskMod:
    """Combine mask functions by a logical and."""

    def every(b: Array, h: Array, i: Array, j: Array) -> Array:
        seen = mask_mods[0](b, h, i, j)
        for mask_mod in mask_mods[1:]:
            seen = seen & mask_mod(b, h, i, j)
        return seen

    return every


def or_masks(*mask_mods: MaskMod) -> MaskMod:
    """Combine mask functions by a logical or."""

    def some(b: Array, h: Array, i: Array, j: Array) -> Array:
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
    counts = jnp.arange(B or 1), jnp.arange(H or 1)
    # Padding entries repeat the last one, which changes neither "any" nor "all".
    keys = jnp.minimum(jnp.arange(-(-KV_LEN // columns) * columns), KV_LEN - 1)

    def row(first: Array) -> tuple[Array, Array]:
        queries = jnp.minimum(first + jnp.arange(rows), Q_LEN - 1)
        seen = over_plane(mask_mod)(*counts, queries, keys)  # batch heads row key
        seen = rearrange(seen, "b h q (columns k) -> b h columns (q k)", k=columns)
        return seen.any(-1), seen.all(-1)

    live, full = lax.map(row, jnp.arange(0, Q_LEN, rows))  # rows batch heads columns
    live, full = (rearrange(x, "rows b h columns -> b h rows columns") for x in (live, full))
    return BlockMask(mask_mod, live, full, (Q_LEN, KV_LEN), (rows, columns))


def over_plane(mask_mod: MaskMod) -> Callable[..., Bool[Array, "batch heads query key"]]:
    """Vectorise a mask function over batch elements, heads, queries and keys."""
    by_key = jax.vmap(mask_mod, (None, None, None, 0))
    by_query = jax.vmap(by_key, (None, None, 0, None))
    by_head = jax.vmap(by_query, (None, 0, None, None))
    return jax.vmap(by_head, (0, None, None, None))
