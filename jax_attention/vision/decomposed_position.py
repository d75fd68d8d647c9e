r"""Attention over a grid with a position for each axis, decomposed (Li et al. 2022, MViTv2; Kirillov et al. 2023, SAM).

$$ s_{ij} = q_i^\top k_j / \sqrt{d} + q_i^\top R^h_{y_i - y_j} + q_i^\top R^w_{x_i - x_j} $$

One change from `MultiHeadSelfAttention` over all places of a grid: a query also scores how far above and how far to
the left a key is, by one learned vector for each distance along an axis; h + w of them instead of the h · w that
distances in both at once would need.

| symbol | argument or parameter |                                                                 |
|--------|-----------------------|-----------------------------------------------------------------|
| h, w   | `grid_size`           | height and width of the grid                                    |
| R^h    | `height_positions`    | `(2h - 1, head_dim)`, row `y_i - y_j + h - 1`                   |
| R^w    | `width_positions`     | `(2w - 1, head_dim)`, row `x_i - x_j + w - 1`                   |

The authors' code, and with it ViTDet and SAM, leaves the position terms unscaled, as it stands here; equation 4 of
the paper divides them by √d as well, which is the same with R / √d for R.
"""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.checks import check_divisible, check_keep, check_positive
from jax_attention.layers import Dropout, Factory, linear, parameter
from jax_attention.ops import at_least_float32, attend, merge_heads, split_heads
from jax_attention.vision.grids import GridOutput, check_grid, flatten_grid, unflatten_grid


@checked
def distances(length: int) -> Int[Array, "length length"]:
    """Which row of a table of positions belongs to a query and a key of an axis: 0 for the key farthest ahead."""
    places = jnp.arange(length)  # length
    return places[:, None] - places[None] + length - 1  # length length


@checked
def decomposed_position_bias(
    query: Float[Array, "batch heads area head_dim"],
    height_positions: Float[Array, "height_distances head_dim"],
    width_positions: Float[Array, "width_distances head_dim"],
    height: int,
) -> Float[Array, "batch heads area area"]:
    """What positions add to the scores of a grid whose rows lie one after the other: q·R^h + q·R^w.

    Args:
        query: of every place.
        height_positions: one vector for each distance between two rows.
        width_positions: one vector for each distance between two columns.
        height: how many rows there are.
    """
    width = query.shape[-2] // height
    rows = at_least_float32(height_positions)[distances(height)]  # height height head_dim
    columns = at_least_float32(width_positions)[distances(width)]  # width width head_dim
    grid = rearrange(at_least_float32(query), "b h (y x) d -> b h y x d", y=height)
    down = einsum("bhyxd,ykd->bhyxk", grid, rows)  # batch heads height width height
    across = einsum("bhyxd,xkd->bhyxk", grid, columns)  # batch heads height width width
    bias = down[..., :, None] + across[..., None, :]  # batch heads height width height width
    return rearrange(bias, "b h y x r c -> b h (y x) (r c)")  # batch heads area area


@checked
class DecomposedPositionAttention(nnx.Module):
    """Multi-head self-attention over a grid with decomposed relative positions (Li et al. 2022, section 4.1).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        grid_size: height and width of every grid.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes that do not divide, an empty grid, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        grid_size: tuple[int, int],
        *,
        bias: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        height, width = grid_size
        check_positive(grid_height=height, grid_width=width)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.grid_size = (height, width)
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.height_positions = parameter(2 * height - 1, self.head_dim, **factory)
        self.width_positions = parameter(2 * width - 1, self.head_dim, **factory)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch height width embed"],
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Array, "batch heads area area"] | None = None,
    ) -> GridOutput:
        """Let every place attend to every place.

        Args:
            x: a grid of the size that there are positions for; they are not interpolated.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps a weight; used instead of sampling one.

        Returns:
            Output `(batch, height, width, embed_dim)` and weights `(batch, heads, area, area)`, places counted row
            after row.

        Raises:
            TypeError: a dropout mask that is not boolean.
            ValueError: shapes that do not fit, or a grid of another size.
        """
        check_grid("x", x, self.embed_dim)
        batch, height, width, _ = x.shape
        if (height, width) != self.grid_size:
            raise ValueError(
                f"x must have the height and width that there are positions for, grid_size={self.grid_size}, "
                f"got {(height, width)}"
            )
        check_keep(dropout_keep, (batch, self.num_heads, height * width, height * width))
        places = flatten_grid(x)  # batch area embed
        query = split_heads(self.q_proj(places), self.head_dim)  # batch heads area head_dim
        key = split_heads(self.k_proj(places), self.head_dim)  # batch heads area head_dim
        value = split_heads(self.v_proj(places), self.head_dim)  # batch heads area head_dim
        heads, weights = attend(
            query,
            key,
            value,
            decomposed_position_bias(query, self.height_positions[...], self.width_positions[...], height),
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(query, key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        return GridOutput(unflatten_grid(self.out_proj(merge_heads(heads)), height, width), weights)


def main() -> None:
    """Show how the places of a grid of 2 by 3 look at one another."""
    from jax_attention.demonstration import draw, fill, show
    from jax_attention.outputs import AttentionOutput

    names = [f"({y}, {x})" for y in range(2) for x in range(3)]
    attention = fill(DecomposedPositionAttention(8, 2, (2, 3), rngs=nnx.Rngs(0)))
    output, weights = attention(draw(1, 2, 3, 8))
    show("DecomposedPositionAttention", AttentionOutput(flatten_grid(output), weights), names, names)


if __name__ == "__main__":
    main()
