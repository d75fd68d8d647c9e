"""Sums over tiles whose number depends on the input, with derivatives of every order in reverse mode."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils._pytree import tree_map

from torch_attention.ops.arrays import known_values


def tile_count(members: Int[Tensor, " batch"], most: int, size: int) -> Any:
    """How many tiles of `size` hold all members, the first ones of `most` places, of every batch element; at least one.

    While code is compiled PyTorch cannot know how many there are, and takes all tiles.
    """
    values = known_values(members)
    count = most if values is None else int(values.max())
    return max(1, -(-count // size))


def sum_of_tiles(count: Any, term: Callable[[Any], Any]) -> Any:
    """The sum of `term(0)`, ..., `term(count - 1)`, each an array or a tuple of arrays."""
    total = term(0)
    for number in range(1, count):
        total = tree_map(torch.add, total, term(number))
    return total


def maximum_of_tiles(count: Any, term: Callable[[Any], Tensor]) -> Tensor:
    """The maximum over the tiles, element by element, to which no gradient flows."""
    with torch.no_grad():
        found = term(0)
        for number in range(1, count):
            found = torch.maximum(found, term(number))
    return found.detach()
