"""Grids of features, `(batch, height, width, channels)`, as input and output of attention.

Attention over a grid takes no padding mask, because a grid has no padding.
"""

from typing import NamedTuple

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.checks import check_floating


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
