"""Grids of features, `(batch, height, width, channels)`, as input and output of attention.

Attention over a grid takes no padding mask, because a grid has no padding.
"""

from typing import NamedTuple

import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.arrays import first
from jax_attention.checks import check_floating
from jax_attention.ops.arrays import is_static


class GridOutput(NamedTuple):
    """Result of attention over a grid: `output, weights = attention(grid)`.

    Attributes:
        output: output grid, `(batch, height, width, embed)`.
        weights: attention weights before dropout, in at least float32; the last two axes are query and key, and each
            class states the full shape. None with `need_weights=False`.
    """

    output: Float[Array, "batch height width embed"]
    weights: Float[Array, "batch ..."] | None


def check_grid(name: str, x: Array, dim: int) -> None:
    """Raise unless `x` is floating-point and has shape `(batch, height, width, dim)`."""
    check_floating(name, x)
    if x.ndim != 4 or x.shape[-1] != dim:
        raise ValueError(f"{name} must have shape (batch, height, width, {dim}), got {tuple(x.shape)}")


@checked
def flatten_grid(x: Float[Array, "batch height width embed"]) -> Float[Array, "batch area embed"]:
    """Flatten a grid in row-major order: (y, x) becomes position `y * width + x`."""
    return rearrange(x, "batch height width embed -> batch (height width) embed")


@checked
def unflatten_grid(
    x: Float[Array, "batch area embed"], height: int, width: int
) -> Float[Array, "batch height width embed"]:
    """Restore a grid from a row-major sequence: the inverse of `flatten_grid`."""
    return rearrange(x, "batch (height width) embed -> batch height width embed", height=height, width=width)


@checked
def pad_grid(
    x: Float[Array, "batch height width embed"], tile: tuple[int, int]
) -> Float[Array, "batch padded_height padded_width embed"]:
    """Pad with zeros at the bottom and right until tiles of this height and width cover the grid."""
    batch, height, width, embed = x.shape
    high, wide = ((size + side - 1) // side * side for size, side in zip((height, width), tile, strict=True))
    # Pad with a whole tile of zeros and cut at the last tile: this compiles to one program for all sizes.
    if not (is_static(height) and height == high):
        zeros = jnp.zeros((batch, tile[0], width, embed), dtype=x.dtype)
        x = first(jnp.concatenate([x, zeros], axis=1), high, 1)
    if not (is_static(width) and width == wide):
        zeros = jnp.zeros((batch, high, tile[1], embed), dtype=x.dtype)
        x = first(jnp.concatenate([x, zeros], axis=2), wide, 2)
    return x
