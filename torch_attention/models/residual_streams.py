r"""A residual stream in several parts, from the embeddings to the last hidden states (Gemma 3n, Google 2025).

$$ x_1 = e, \quad x_i = \frac{\mathrm{rms}(e)}{\mathrm{rms}(S_i e)} S_i e, \qquad
   y = \frac{1}{n} \Big(x_1 + \sum_{i > 1} \frac{\mathrm{rms}(x_1)}{\mathrm{rms}(M_i x_i)} M_i x_i\Big) $$

The layers between compute x with `AlternatingUpdates`.

| symbol | argument or parameter |
|--------|-----------------------|
| n      | `num_streams`         |
| S, M   | `split`, `merge`      |
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.layers import Factory, linear
from torch_attention.roots import root_mean_square


@checked
class RescaledProjection(nn.Module):
    """Linear map of each position, scaled to a given root mean square (Gemma 3n, 2025).

    Args:
        embed_dim: features of input and output.
        least_square: least mean square of the projected features by which they are divided.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        least_square: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.least_square = least_square
        self.proj = linear(embed_dim, embed_dim, bias=False, **factory)

    def forward(
        self, x: Float[Tensor, "batch length embed"], size: Float[Tensor, "batch length one"]
    ) -> Float[Tensor, "batch length embed"]:
        """Project `x` and scale the result to the root mean square `size`, `(batch, length, 1)`."""
        projected = self.proj(x)  # batch length embed
        own = torch.clip(root_mean_square(projected), min=self.least_square**0.5)  # batch length 1
        return (projected * (size / own)).to(x.dtype)


@checked
class ResidualStreams(nn.Module):
    """The parts of a residual stream: made from the embeddings, and joined after the last layer (Gemma 3n, 2025).

    Args:
        embed_dim: features of each part.
        num_streams: number of parts.
    """

    def __init__(
        self,
        embed_dim: int,
        num_streams: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.num_streams = num_streams
        self.split = nn.ModuleList([RescaledProjection(embed_dim, **factory) for _ in range(num_streams - 1)])
        self.merge = nn.ModuleList([RescaledProjection(embed_dim, **factory) for _ in range(num_streams - 1)])

    def forward(self, x: Float[Tensor, "batch length embed"]) -> Float[Tensor, "batch length streams embed"]:
        """Make the parts from the embeddings `x`."""
        size = root_mean_square(x)  # batch length 1
        return torch.stack([x, *(each(x, size) for each in self.split)], dim=2)

    @checked
    def join(
        self, streams: Float[Tensor, "batch length streams embed"]
    ) -> Float[Tensor, "batch length embed"]:
        """Join the parts after the last layer: the mean of all parts, projected to the size of the first one."""
        size = root_mean_square(streams[:, :, 0])  # batch length 1
        others = [each(streams[:, :, n + 1], size) for n, each in enumerate(self.merge)]
        return torch.stack([streams[:, :, 0], *others], dim=2).mean(dim=2)
