"""Sums over a number of tiles that depends on the input, with reverse-mode derivatives of any order."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils._pytree import tree_map

from torch_attention.ops.arrays import known_values


def tile_count(members: Int[Tensor, " batch"], most: int, size: int) -> Any:
    """Number of tiles of `size` that cover the members of every batch element; at least one.

    Each batch element has its `members` first, in an axis of length `most`. Compiled PyTorch code does not know the
    number of members, and uses all tiles.
    """
    values = known_values(members)
    count = most if values is None else int(values.max())
    return max(1, -(-count // size))


def sum_of_tiles(count: Any, term: Callable[[Any], Any]) -> Any:
    """Sum of `term(0)`, ..., `term(count - 1)`, each an array or a tuple of arrays."""
    total = term(0)
    for number in range(1, count):
        total = tree_map(torch.add, total, term(number))
    return total


def maximum_of_tiles(count: Any, term: Callable[[Any], Tensor]) -> Tensor:
    """Elementwise maximum over the tiles, without a gradient."""
    with torch.no_grad():
        found = term(0)
        for number in range(1, count):
            found = torch.maximum(found, term(number))
    return found.detach()
