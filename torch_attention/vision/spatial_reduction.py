r"""Spatial-reduction attention: keys and values from patches (Wang et al. 2021, PVT; Xie et al. 2021, SegFormer).

$$ \mathrm{softmax}\!\left(Q K^\top / \sqrt{d}\right) V, \qquad Q = X W^Q, \quad K = S W^K, \quad V = S W^V, \qquad
   S = \mathrm{LN}(\mathrm{Conv}_R(X)) $$

One change from `MultiHeadSelfAttention` over all positions of a grid: keys and values come from patches of R by R
positions, which a convolution with kernel and stride R reduces to one vector each. There are R² times fewer keys. With
R = 1 it is `MultiHeadSelfAttention`.

| symbol | argument or parameter |                                    |
|--------|-----------------------|------------------------------------|
| R      | `reduction`           | height and width of a patch        |
| Conv_R | `reduction_proj`      | reduces a patch; absent if R = 1   |
| LN     | `reduction_norm`      | absent if R = 1                    |
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.arrays import first
from torch_attention.checks import check_divisible, check_keep, check_positive
from torch_attention.layers import Dropout, Factory, conv2d, convolve, linear
from torch_attention.norms import layer_norm, normalise
from torch_attention.ops import attend, merge_heads, split_heads
from torch_attention.vision.grids import GridOutput, check_grid, flatten_grid, unflatten_grid


@checked
class SpatialReductionAttention(nn.Module):
    """Multi-head attention from a grid to patches of the same grid (Wang et al. 2021, section 3.3).

    Positions beyond the last complete patch of a row or column are queries, but not part of any key.

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        reduction: height and width of a patch.
        norm_eps: constant added to the variance in the normalisation of the patches.
        bias: whether the projections have biases; the convolution always has one.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes that do not divide, an empty patch, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        reduction: int,
        *,
        norm_eps: float = 1e-5,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        check_positive(reduction=reduction)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.reduction = reduction
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        if reduction > 1:
            patch = (reduction, reduction)
            self.reduction_proj = conv2d(embed_dim, embed_dim, patch, stride=patch, **factory)
            self.reduction_norm = layer_norm(embed_dim, eps=norm_eps, **factory)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch height width embed"],
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch heads area patches"] | None = None,
    ) -> GridOutput:
        """Apply attention from every position to all patches.

        Args:
            x: input grid, `(batch, height, width, embed_dim)`, at least one patch high and wide.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, height, width, embed_dim)` and weights `(batch, heads, height * width, patches)`, with
            positions and patches in row-major order.

        Raises:
            TypeError: a dropout mask that is not boolean.
            ValueError: shapes that do not fit, or a grid smaller than a patch.
        """
        check_grid("x", x, self.embed_dim)
        batch, height, width, _ = x.shape
        high, wide = height // self.reduction, width // self.reduction
        patches = high * wide
        if patches == 0 and height * width != 0:
            raise ValueError(
                f"x must be at least reduction={self.reduction} high and wide, got {height} and {width}"
            )
        check_keep(dropout_keep, (batch, self.num_heads, height * width, patches))
        whole = first(first(x, high * self.reduction, 1), wide * self.reduction, 2)  # complete patches
        reduced = (
            x
            if self.reduction == 1 or patches == 0
            else normalise(self.reduction_norm, convolve(self.reduction_proj, whole))
        )
        reduced = flatten_grid(reduced)  # batch patches embed
        query = split_heads(self.q_proj(flatten_grid(x)), self.head_dim)  # batch heads area head_dim
        key = split_heads(self.k_proj(reduced), self.head_dim)  # batch heads patches head_dim
        value = split_heads(self.v_proj(reduced), self.head_dim)  # batch heads patches head_dim
        heads, weights = attend(
            query,
            key,
            value,
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(query, key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        return GridOutput(unflatten_grid(self.out_proj(merge_heads(heads)), height, width), weights)


def main() -> None:
    """Show the weights of the first positions of a 4 by 4 grid over its four patches."""
    from torch_attention.demonstration import draw, fill

    output, weights = fill(SpatialReductionAttention(embed_dim=4, num_heads=2, reduction=2))(draw(1, 4, 4, 4))
    assert weights is not None
    print("SpatialReductionAttention: output", tuple(output.shape), "weights", tuple(weights.shape))
    for number, head in enumerate(weights[0].tolist()):
        print(f"head {number}")
        for row in head[:4]:
            print(" ".join(f"{weight:.3f}" for weight in row))


if __name__ == "__main__":
    main()
