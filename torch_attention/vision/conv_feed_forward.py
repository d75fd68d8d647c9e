r"""Feed-forward network with a depthwise convolution, Mix-FFN (Xie et al. 2021, SegFormer; Wang et al. 2022, PVT v2).

$$ \mathrm{down}(\phi(\mathrm{Conv}_{3 \times 3}(\mathrm{up}(X)))) $$

One change from `FeedForward`: a convolution of each hidden feature over 3 by 3 positions of the grid, whose zeros
around the grid tell positions apart, so that a model needs no positional encoding.

| symbol | argument or parameter |                               |
|--------|-----------------------|-------------------------------|
| Conv   | `conv`                | one kernel per hidden feature |
| φ      | `activation`          |                               |
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.activations import activation_function
from torch_attention.arguments import checked
from torch_attention.layers import Factory, conv2d, convolve, linear
from torch_attention.vision.grids import check_grid


@checked
class ConvolutionalFeedForward(nn.Module):
    """Feed-forward network on a grid: down(activation(conv(up(x)))) (Xie et al. 2021, equation 3).

    Args:
        embed_dim: features of input and output.
        ffn_dim: hidden features.
        activation: activation of the hidden features, as in `FeedForward`.

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        *,
        activation: str = "gelu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.up_proj = linear(embed_dim, ffn_dim, **factory)
        self.conv = conv2d(ffn_dim, ffn_dim, (3, 3), padding=(1, 1), groups=ffn_dim, **factory)
        self.down_proj = linear(ffn_dim, embed_dim, **factory)
        self.activation = activation_function(activation)

    def forward(
        self, x: Float[Tensor, "batch height width embed"]
    ) -> Float[Tensor, "batch height width embed"]:
        """Apply the network to the grid `x`, `(batch, height, width, embed_dim)`.

        Raises:
            ValueError: the grid has other features.
        """
        check_grid("x", x, self.embed_dim)
        hidden = convolve(self.conv, self.up_proj(x))  # batch height width ffn
        return self.down_proj(self.activation(hidden))  # batch height width embed
