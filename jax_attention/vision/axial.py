r"""Axial attention: attention along the columns and rows of a grid (Ho et al. 2019).

$$ y = \mathrm{MHA}_{\text{height}}(x_{\cdot, j})_i + \mathrm{MHA}_{\text{width}}(x_{i, \cdot})_j $$

One change from `MultiHeadSelfAttention` over all positions of a grid: it runs on every column and on every row, with
separate parameters for each direction, and the two results are added. Each position attends to height + width positions
instead of height · width; two such layers connect all positions. (Ho et al. stack layers of one direction each. The
sum, as in CCNet, Huang et al. 2019, covers both directions in one layer.)

| symbol     | parameter          |                                        |
|------------|--------------------|----------------------------------------|
| MHA_height | `height_attention` | along each column                      |
| MHA_width  | `width_attention`  | along each row                         |
"""

from typing import NamedTuple

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.checks import check_keep
from jax_attention.layers import Factory
from jax_attention.self_attention import MultiHeadSelfAttention
from jax_attention.vision.grids import check_grid


class AxialOutput(NamedTuple):
    """Result of axial attention: `output, height_weights, width_weights = attention(grid)`.

    Attributes:
        output: output grid, `(batch, height, width, embed)`.
        height_weights: weights within each column, `(batch, width, heads, height, height)`; None with
            `need_weights=False`.
        width_weights: weights within each row, `(batch, height, heads, width, width)`; None with `need_weights=False`.
    """

    output: Float[Array, "batch height width embed"]
    height_weights: Float[Array, "batch width heads height height"] | None
    width_weights: Float[Array, "batch height heads width width"] | None


class AxialKeep(NamedTuple):
    """Boolean dropout masks of `AxialAttention`, True keeps; None samples a mask in training.

    Attributes:
        height: mask for the columns, `(batch, width, heads, height, height)`.
        width: mask for the rows, `(batch, height, heads, width, width)`.
    """

    height: Bool[Array, "batch width heads height height"] | None = None
    width: Bool[Array, "batch height heads width width"] | None = None


@checked
class AxialAttention(nnx.Module):
    """Sum of self-attention along the columns and along the rows of a grid (Ho et al. 2019).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads in each direction; must divide `embed_dim`.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.height_attention = MultiHeadSelfAttention(
            embed_dim, num_heads, bias=bias, dropout=dropout, **factory
        )
        self.width_attention = MultiHeadSelfAttention(
            embed_dim, num_heads, bias=bias, dropout=dropout, **factory
        )

    def __call__(
        self,
        x: Float[Array, "batch height width embed"],
        *,
        need_weights: bool = True,
        dropout_keep: AxialKeep | None = None,
    ) -> AxialOutput:
        """Apply self-attention within each column and within each row.

        Args:
            x: input grid, `(batch, height, width, embed_dim)`.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout masks, True keeps; used instead of sampling them.

        Returns:
            Output `(batch, height, width, embed_dim)` and the weights of both directions.

        Raises:
            TypeError: a dropout mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_grid("x", x, self.embed_dim)
        batch, height, width, _ = x.shape
        keep = dropout_keep or AxialKeep()
        check_keep(keep.height, (batch, width, self.num_heads, height, height))
        check_keep(keep.width, (batch, height, self.num_heads, width, width))
        down, height_weights = self.height_attention(
            rearrange(x, "batch height width embed -> (batch width) height embed"),
            need_weights=need_weights,
            dropout_keep=_lines_as_batch(keep.height),
        )
        across, width_weights = self.width_attention(
            rearrange(x, "batch height width embed -> (batch height) width embed"),
            need_weights=need_weights,
            dropout_keep=_lines_as_batch(keep.width),
        )
        down = rearrange(
            down, "(batch width) height embed -> batch height width embed", batch=batch, width=width
        )
        across = rearrange(
            across, "(batch height) width embed -> batch height width embed", batch=batch, height=height
        )
        return AxialOutput(
            down + across,
            _lines_of_batch(height_weights, batch, width),
            _lines_of_batch(width_weights, batch, height),
        )


def _lines_as_batch(
    keep: Bool[Array, "batch lines heads length length"] | None,
) -> Bool[Array, "all_lines heads length length"] | None:
    return None if keep is None else rearrange(keep, "batch lines ... -> (batch lines) ...")


def _lines_of_batch(
    weights: Float[Array, "all_lines heads length length"] | None, batch: int, lines: int
) -> Float[Array, "batch lines heads length length"] | None:
    if weights is None:
        return None
    return rearrange(weights, "(batch lines) ... -> batch lines ...", batch=batch, lines=lines)


def main() -> None:
    """Show the weights of a 2 by 3 grid: within its columns and within its rows."""
    from jax_attention.demonstration import draw, fill

    attention = fill(AxialAttention(embed_dim=4, num_heads=1, rngs=nnx.Rngs(0)))
    output, height_weights, width_weights = attention(draw(1, 2, 3, 4))
    print("AxialAttention: output", tuple(output.shape))
    for name, weights in (("column", height_weights), ("row", width_weights)):
        assert weights is not None
        print("weights", tuple(weights.shape))
        for number, line in enumerate(weights[0, :, 0].tolist()):
            print(name, number, " | ".join(" ".join(f"{weight:.3f}" for weight in row) for row in line))


if __name__ == "__main__":
    main()
