r"""Positions of image patches that follow prefix tokens: BEiT's relative bias and DINOv3's rotary embedding.

$$ s_{ij} = q_i^\top k_j + \hat{B}[y_i - y_j,\, x_i - x_j] \qquad\text{or}\qquad q_p \to R_p\, q_p $$

The patches of a grid come in row-major order after a class token and registers, the prefix, which has no place on the
grid. In the bias (Bao et al. 2021, BEiT) three further rows of the table are for a prefix query, a prefix key and
both. The rotary embedding (Siméoni et al. 2025, DINOv3) rotates each pair by 2π times the row or the column of the
patch's centre, from -1 to 1 across the image, times a frequency; the prefix is not rotated.

| symbol | argument or parameter |                                                                          |
|--------|-----------------------|--------------------------------------------------------------------------|
| B̂      | `position_bias`       | `((2h - 1)(2w - 1) + 3, heads)`, row `(dy + h - 1)(2w - 1) + dx + w - 1` |
| h, w   | `grid_size`           | height and width of the grid                                             |
"""

import math

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from jax_attention.arguments import checked
from jax_attention.checks import check_divisible, check_positive
from jax_attention.layers import Factory, parameter
from jax_attention.ops import Placed, at_least_float32
from jax_attention.positions.protocol import check_heads
from jax_attention.positions.rotary import rotary_frequencies, rotate


@checked
def bias_rows(grid_size: tuple[int, int], num_prefix: int) -> Int[Array, "length length"]:
    """Row of the bias table for each query and key."""
    height, width = grid_size
    places = jnp.arange(num_prefix + height * width) - num_prefix  # length, prefix below 0
    patches = jnp.clip(places, 0)  # length
    rows, columns = patches // width, patches % width  # length
    down = rows[:, None] - rows[None] + height - 1  # length length
    across = columns[:, None] - columns[None] + width - 1  # length length
    count, prefix = (2 * height - 1) * (2 * width - 1), places < 0
    to_prefix = jnp.where(prefix[None], count + 1, down * (2 * width - 1) + across)  # length length
    from_prefix = jnp.where(prefix[None], count + 2, count)  # 1 length
    return jnp.where(prefix[:, None], from_prefix, to_prefix)  # length length


@checked
def patch_angles(
    grid_size: tuple[int, int], num_prefix: int, frequencies: Float[Array, " pairs"]
) -> Float[Array, "length two_pairs"]:
    """Rotation angle of each pair: first the pairs of the rows, then the pairs of the columns."""
    height, width = grid_size
    places = jnp.arange(num_prefix + height * width) - num_prefix  # length
    patches = jnp.clip(places, 0)  # length
    y = (2 * (patches // width) + 1).astype(frequencies.dtype) / height - 1.0  # length
    x = (2 * (patches % width) + 1).astype(frequencies.dtype) / width - 1.0  # length
    turns = jnp.stack([y, x], axis=-1)  # length axes
    turns = jnp.where(places[:, None] < 0, 0.0, turns)  # length axes
    angles = 2.0 * math.pi * turns[:, :, None] * frequencies  # length axes pairs
    return rearrange(angles, "length axes pairs -> length (axes pairs)")


def _check_length(
    x: Float[Array, "batch heads length head_dim"], grid_size: tuple[int, int], num_prefix: int
) -> None:
    length = num_prefix + grid_size[0] * grid_size[1]
    if x.shape[-2] != length:
        raise ValueError(
            f"query and key must have {length} positions, the prefix and the patches of num_prefix={num_prefix} "
            f"and grid_size={grid_size}, got {x.shape[-2]}"
        )


@checked
class PatchBias(nnx.Module):
    """Relative position bias of patches: a learned bias per head and difference of places (Bao et al. 2021, BEiT).

    Args:
        num_heads: number of query heads.
        grid_size: height and width of the grid of patches.
        num_prefix: number of tokens in front of the patches.
    """

    def __init__(
        self,
        num_heads: int,
        grid_size: tuple[int, int],
        *,
        num_prefix: int = 1,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        height, width = grid_size
        check_positive(grid_height=height, grid_width=width)
        self.num_heads = num_heads
        self.grid_size = (height, width)
        self.num_prefix = num_prefix
        self.position_bias = parameter((2 * height - 1) * (2 * width - 1) + 3, num_heads, **factory)

    def __call__(
        self,
        query: Float[Array, "batch heads query head_dim"],
        key: Float[Array, "batch kv_heads key head_dim"],
        query_positions: Int[Array, "..."] | None = None,
        key_positions: Int[Array, "..."] | None = None,
    ) -> Placed:
        """Return queries and keys unchanged, with a bias `(1, heads, query, key)`; given positions have no influence.

        Raises:
            ValueError: there are not `num_heads` query heads, or another number of positions.
        """
        check_heads(query, key, num_heads=self.num_heads)
        for x in (query, key):
            _check_length(x, self.grid_size, self.num_prefix)
        rows = bias_rows(self.grid_size, self.num_prefix)  # query key
        bias = rearrange(self.position_bias[...][rows], "query key heads -> 1 heads query key")
        return Placed(query, key, bias)


@checked
class PatchRotaryEmbedding(nnx.Module):
    """Axial RoPE at the centres of patches, without parameters (Siméoni et al. 2025, DINOv3).

    Args:
        head_dim: features of a head; a multiple of 4.
        grid_size: height and width of the grid of patches.
        num_prefix: number of tokens in front of the patches, which are not rotated.
        base: base of the frequencies, base^(-4i/head_dim) for each axis.

    Raises:
        ValueError: `head_dim` is not a multiple of 4.
    """

    def __init__(
        self, head_dim: int, grid_size: tuple[int, int], *, num_prefix: int = 1, base: float = 100.0
    ):
        height, width = grid_size
        check_positive(grid_height=height, grid_width=width)
        check_divisible(head_dim=head_dim, pairs=4)
        self.head_dim = head_dim
        self.grid_size = (height, width)
        self.num_prefix = num_prefix
        self.frequencies = rotary_frequencies(head_dim // 2, base)

    def __call__(
        self,
        query: Float[Array, "batch heads query head_dim"],
        key: Float[Array, "batch kv_heads key head_dim"],
        query_positions: Int[Array, "..."] | None = None,
        key_positions: Int[Array, "..."] | None = None,
    ) -> Placed:
        """Rotate the queries and keys of the patches; given positions have no influence.

        Raises:
            ValueError: the heads do not have `head_dim` features, or another number of positions.
        """
        check_heads(query, key, head_dim=self.head_dim)
        for x in (query, key):
            _check_length(x, self.grid_size, self.num_prefix)
        wide = at_least_float32(query).dtype
        thetas = jnp.asarray(self.frequencies, dtype=wide)  # pairs
        angles = patch_angles(self.grid_size, self.num_prefix, thetas)  # length two_pairs
        return Placed(rotate(query, angles), rotate(key, angles), None)
