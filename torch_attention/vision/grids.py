"""Grids of features, `(batch, height, width, channels)`, as input and output of attention.

Attention over a grid takes no padding mask, because a grid has no padding.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import first
from torch_attention.checks import check_floating
from torch_attention.ops.arrays import is_static


class GridOutput(NamedTuple):
    """Result of attention over a grid: `output, weights = attention(grid)`.

    Attributes:
        output: output grid, `(batch, height, width, embed)`.
        weights: attention weights before dropout, in at least float32; the last two axes are query and key, and each
            class states the full shape. None with `need_weights=False`.
    """

    output: Float[Tensor, "batch height width embed"]
    weights: Float[Tensor, "batch ..."] | None


def check_grid(name: str, x: Tensor, dim: int) -> None:
    """Raise unless `x` is floating-point and has shape `(batch, height, width, dim)`."""
    check_floating(name, x)
    if x.ndim != 4 or x.shape[-1] != dim:
        raise ValueError(f"{name} must have shape (batch, height, width, {dim}), got {tuple(x.shape)}")


@checked
def flatten_grid(x: Float[Tensor, "batch height width embed"]) -> Float[Tensor, "batch area embed"]:
    """Flatten a grid in row-major order: (y, x) becomes position `y * width + x`."""
    return rearrange(x, "batch height width embed -> batch (height width) embed")


@checked
def unflatten_grid(
    x: Float[Tensor, "batch area embed"], height: int, width: int
) -> Float[Tensor, "batch height width embed"]:
    """Restore a grid from a row-major sequence: the inverse of `flatten_grid`."""
    return rearrange(x, "batch (height width) embed -> batch height width embed", height=height, width=width)


@checked
def pad_grid(
    x: Float[Tensor, "batch height width embed"], tile: tuple[int, int]
) -> Float[Tensor, "batch padded_height padded_width embed"]:
    """Pad with zeros at the bottom and right until tiles of this height and width cover the grid."""
    batch, height, width, embed = x.shape
    high, wide = ((size + side - 1) // side * side for size, side in zip((height, width), tile, strict=True))
    # Pad with a whole tile of zeros and cut at the last tile: this compiles to one program for all sizes.
    if not (is_static(height) and height == high):
        zeros = torch.zeros((batch, tile[0], width, embed), dtype=x.dtype, device=x.device)
        x = first(torch.concatenate([x, zeros], dim=1), high, 1)
    if not (is_static(width) and width == wide):
        zeros = torch.zeros((batch, high, tile[1], embed), dtype=x.dtype, device=x.device)
        x = first(torch.concatenate([x, zeros], dim=2), wide, 2)
    return x
