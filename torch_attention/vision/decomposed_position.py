r"""Attention with decomposed relative positions on a grid (Li et al. 2022, MViTv2; Kirillov et al. 2023, SAM).

$$ s_{ij} = q_i^\top k_j / \sqrt{d} + q_i^\top R^h_{y_i - y_j} + q_i^\top R^w_{x_i - x_j} $$

One change from `MultiHeadSelfAttention` over all positions of a grid: a query is also scored against learned vectors
for the vertical and the horizontal distance of a key. This needs one vector per distance along each axis, about 2h +
2w, instead of one for each pair of distances, about 4hw.

| symbol | argument or parameter |                                                                 |
|--------|-----------------------|-----------------------------------------------------------------|
| h, w   | `grid_size`           | height and width of the grid                                    |
| R^h    | `height_positions`    | `(2h - 1, head_dim)`, row `y_i - y_j + h - 1`                   |
| R^w    | `width_positions`     | `(2w - 1, head_dim)`, row `x_i - x_j + w - 1`                   |

This file leaves the position terms unscaled, as do the authors' code, ViTDet and SAM. Equation 4 of the paper divides
them by √d as well, which is equivalent to R / √d in place of R.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.arrays import einsum
from torch_attention.checks import check_divisible, check_keep, check_positive
from torch_attention.layers import Dropout, Factory, linear, parameter
from torch_attention.ops import at_least_float32, attend, merge_heads, split_heads
from torch_attention.vision.grids import GridOutput, check_grid, flatten_grid, unflatten_grid


@checked
def distances(length: int, *, device: torch.device | str | None) -> Int[Tensor, "length length"]:
    """Row of the position table for each query and key along an axis; 0 for the key farthest after the query."""
    places = torch.arange(length, device=device)  # length
    return places[:, None] - places[None] + length - 1  # length length


@checked
def decomposed_position_bias(
    query: Float[Tensor, "batch heads area head_dim"],
    height_positions: Float[Tensor, "height_distances head_dim"],
    width_positions: Float[Tensor, "width_distances head_dim"],
    height: int,
) -> Float[Tensor, "batch heads area area"]:
    """Bias of the scores for the positions on a flattened grid: q·R^h + q·R^w.

    Args:
        query: queries of all positions, `(batch, heads, area, head_dim)`.
        height_positions: vectors of the vertical distances, `(2 height - 1, head_dim)`.
        width_positions: vectors of the horizontal distances, `(2 width - 1, head_dim)`.
        height: number of rows.
    """
    width = query.shape[-2] // height
    rows = at_least_float32(height_positions)[
        distances(height, device=query.device)
    ]  # height height head_dim
    columns = at_least_float32(width_positions)[distances(width, device=query.device)]  # width width head_dim
    grid = rearrange(at_least_float32(query), "b h (y x) d -> b h y x d", y=height)
    down = einsum("bhyxd,ykd->bhyxk", grid, rows)  # batch heads height width height
    across = einsum("bhyxd,xkd->bhyxk", grid, columns)  # batch heads height width width
    bias = down[..., :, None] + across[..., None, :]  # batch heads height width height width
    return rearrange(bias, "b h y x r c -> b h (y x) (r c)")  # batch heads area area


@checked
class DecomposedPositionAttention(nn.Module):
    """Multi-head self-attention over a grid with decomposed relative positions (Li et al. 2022, section 4.1).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        grid_size: height and width of the input grids.
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        height, width = grid_size
        check_positive(grid_height=height, grid_width=width)
        factory = Factory(device=device, dtype=dtype)
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
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch height width embed"],
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch heads area area"] | None = None,
    ) -> GridOutput:
        """Apply self-attention over all positions of a grid.

        Args:
            x: input grid, `(batch, height, width, embed_dim)`, of size `grid_size`; positions are not interpolated.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, height, width, embed_dim)` and weights `(batch, heads, area, area)`, with positions in
            row-major order.

        Raises:
            TypeError: a dropout mask that is not boolean.
            ValueError: shapes that do not fit, or a grid of another size.
        """
        check_grid("x", x, self.embed_dim)
        batch, height, width, _ = x.shape
        if (height, width) != self.grid_size:
            raise ValueError(
                f"x must have the height and width of the position tables, grid_size={self.grid_size}, "
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
    """Show the attention weights between the positions of a 2 by 3 grid."""
    from torch_attention.demonstration import draw, fill, show
    from torch_attention.outputs import AttentionOutput

    names = [f"({y}, {x})" for y in range(2) for x in range(3)]
    attention = fill(DecomposedPositionAttention(8, 2, (2, 3)))
    output, weights = attention(draw(1, 2, 3, 8))
    show("DecomposedPositionAttention", AttentionOutput(flatten_grid(output), weights), names, names)


if __name__ == "__main__":
    main()
