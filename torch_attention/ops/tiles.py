"""Which tiles of the (query, key) plane have something to see.

Blockwise attention walks over the plane tile by tile. What hides keys by their place (causal, a window) or by a
mask leaves most tiles either dead, all hidden, or full, all visible. Dead ones are never visited, full ones need no
mask; so a causal plane costs half, and a window costs in proportion to the length.
"""

from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from torch_attention.ops.known import known_values


class Live(NamedTuple):
    """A tile that is visited: its number along the keys, and whether a mask is needed there."""

    column: int
    is_partial: bool


Tiling = tuple[tuple[Live, ...], ...]  # for each row of tiles


def tile_size(length: int, most: int) -> int:
    """The size of the fewest tiles of nearly equal size, each of at most `most`, that cover `length`."""
    count = max(1, -(-length // most))
    return max(1, -(-length // count))


def tiling(
    lengths: tuple[int, int],
    sizes: tuple[int, int],
    *,
    is_causal: bool,
    window: int | None,
    query_offset: int | Int[Tensor, ""],
    mask: Bool[Tensor, "... query key"] | None,
) -> Tiling:
    """The tiles to visit; while code is compiled a mask cannot be looked at, and hides no tile as a whole.

    Args:
        lengths: of queries and keys.
        sizes: of a tile along both.
        is_causal, window, query_offset: as in `dot_product_attention_weights`.
        mask: True where the query attends to the key, for all batch elements and heads; an axis may have size 1.
    """
    (query_len, key_len), (rows, columns) = lengths, sizes
    offset = _known_number(query_offset)
    some, every = (None, None) if mask is None else tiles_by_mask(mask, sizes)
    found = []
    for i in range(-(-query_len // rows)):
        row = []
        for j in range(-(-key_len // columns)):
            live, full = True, mask is None
            if some is not None and every is not None:
                at = i % len(some), j % len(some[0])  # an axis of size 1 is for all
                live, full = bool(some[at]), bool(every[at])
            if is_causal and offset is None:
                full = False
            elif is_causal and offset is not None:
                first_key, last_key = j * columns, min(key_len, (j + 1) * columns) - 1
                first_query = i * rows + offset
                last_query = min(query_len, (i + 1) * rows) - 1 + offset
                live = live and first_key <= last_query
                full = full and last_key <= first_query
                if window is not None:
                    live = live and last_key > first_query - window
                    full = full and first_key > last_query - window
            if live:
                row.append(Live(j, not full))
        found.append(tuple(row))
    return tuple(found)


def tiles_by_mask(
    mask: Bool[Tensor, "... query key"], sizes: tuple[int, int]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Of which tiles a mask shows something, and of which all, to any and to all batch elements and heads."""
    query_len, key_len = mask.shape[-2:]
    rows, columns = (1 if length == 1 else size for length, size in zip(mask.shape[-2:], sizes, strict=True))
    flat = mask.reshape(-1, query_len, key_len)
    widths = (0, -key_len % columns, 0, -query_len % rows)
    some = F.pad(flat.any(0), widths).unflatten(0, (-1, rows)).unflatten(2, (-1, columns)).any(3).any(1)
    every = (
        F.pad(flat.all(0), widths, value=True)
        .unflatten(0, (-1, rows))
        .unflatten(2, (-1, columns))
        .all(3)
        .all(1)
    )
    return known_values(some), known_values(every)


def cut(x: Tensor, axis: int, number: int, size: int) -> Tensor:
    """One tile along an axis; the last may be shorter, and an axis of size 1 is for all."""
    length = x.shape[axis]
    return x if length == 1 else x.narrow(axis, number * size, min(size, length - number * size))


def _known_number(x: int | Int[Tensor, ""]) -> int | None:
    if isinstance(x, int):
        return x
    values = known_values(x)
    return None if values is None else int(values)
