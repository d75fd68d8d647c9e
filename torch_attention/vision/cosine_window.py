r"""Cosine attention in windows with a continuous, log-spaced position bias (Liu et al. 2022, Swin Transformer V2).

$$ \mathrm{softmax}\!\left(\tau_h \cos(Q, K) + 16\, \sigma(\mathrm{MLP}(\delta))\right) V \quad \text{in each window},
   \qquad \delta = \mathrm{sign}(\Delta) \log_8\!\left(1 + 8\, |\Delta| / (w' - 1)\right) $$

Two changes from `ShiftedWindowAttention`: scores are scaled cosine similarities, as in `CosineAttention`; and a small
network computes the position bias from the offset between query and key, so that windows may be larger than in the
training.

| symbol   | argument or parameter             |                                                           |
|----------|-----------------------------------|-----------------------------------------------------------|
| $\tau_h$ | `max_scale`                       | upper bound of the scale, parameter `logit_scale`         |
| Δ        |                                   | rows and columns from key to query                        |
| w'       | `pretrained_window`               | window size of the training, which offsets are relative to |
| MLP      | `position_dim`                    | `position_hidden_proj`, ReLU, `position_proj`             |
"""

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.activations import relu, sigmoid
from torch_attention.arguments import checked
from torch_attention.arrays import first
from torch_attention.checks import check_divisible, check_keep, check_positive
from torch_attention.layers import Dropout, Factory, constant_parameter, linear
from torch_attention.ops import at_least_float32, attend
from torch_attention.scores.cosine import unit_vectors
from torch_attention.vision.grids import GridOutput, check_grid, pad_grid
from torch_attention.vision.window import (
    check_shift,
    merge_windows,
    relative_positions,
    shape_in_windows,
    shifted_regions,
    split_windows,
)


@checked
def log_spaced_offsets(
    window_size: int, pretrained_window: int, like: Float[Tensor, "*axes"]
) -> Float[Tensor, "positions 2"]:
    """Log-spaced offset of each relative position, row and column, in the order of `relative_positions`.

    Args:
        window_size: height and width of a window.
        pretrained_window: size of the window whose largest offset becomes log_8(9).
        like: array whose dtype and device the result has.
    """
    along = torch.arange(2 * window_size - 1, device=like.device) - (window_size - 1)  # sides
    relative = 8.0 * along.to(like.dtype) / max(pretrained_window - 1, 1)  # sides
    spaced = torch.sign(relative) * torch.log2(torch.abs(relative) + 1.0) / 3.0  # sides
    down = repeat(spaced, "down -> (down across)", across=spaced.shape[0])
    across = repeat(spaced, "across -> (down across)", down=spaced.shape[0])
    return torch.stack([down, across], dim=-1)  # positions 2


@checked
class CosineWindowAttention(nn.Module):
    """Cosine self-attention within each window, shifted or not, with a continuous position bias (Liu et al. 2022).

    A grid that windows do not tile is padded with zeros at the bottom and right, as in Swin v2. Queries attend to the
    padding like to any other position; it is removed from the output.

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        window_size: height and width of a window.
        shift: shift of the windows down and to the right, at least 0 and below `window_size`; every grid is shifted.
        pretrained_window: window size of the training, which offsets are relative to; None for `window_size`.
        position_dim: hidden features of the network that computes the position bias.
        max_scale: upper bound of the learned scale of the scores.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes that do not divide, an empty window, a shift outside [0, `window_size`), a `max_scale` that is
            not positive, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window_size: int,
        shift: int = 0,
        *,
        pretrained_window: int | None = None,
        position_dim: int = 512,
        max_scale: float = 100.0,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        check_positive(window_size=window_size)
        check_shift(shift, window_size)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift = shift
        self.pretrained_window = window_size if pretrained_window is None else pretrained_window
        self.max_scale = max_scale
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.logit_scale = constant_parameter(num_heads, value=math.log(10.0), **factory)
        self.position_hidden_proj = linear(2, position_dim, **factory)
        self.position_proj = linear(position_dim, num_heads, bias=False, **factory)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch height width embed"],
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch windows heads area area"] | None = None,
    ) -> GridOutput:
        """Apply self-attention within each window.

        Args:
            x: input grid, `(batch, height, width, embed_dim)`.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, height, width, embed_dim)` and weights `(batch, windows, heads, area, area)`, where area is
            `window_size ** 2`. With a shift the weights belong to the rolled grid, as in `ShiftedWindowAttention`.

        Raises:
            TypeError: a dropout mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_grid("x", x, self.embed_dim)
        check_keep(dropout_keep, shape_in_windows(x.shape, self.num_heads, self.window_size))
        _, height, width, _ = x.shape
        side, shift, mask = self.window_size, self.shift, None
        padded = pad_grid(x, (side, side))  # batch padded_height padded_width embed
        if shift:
            regions = shifted_regions(padded.shape[1], padded.shape[2], side, shift, device=x.device)
            mask = regions[None, :, None]  # 1 windows 1 area area
            padded = torch.roll(padded, (-shift, -shift), (1, 2))
        windows = split_windows(padded, side)  # batch windows area embed
        query = self._split_heads(self.q_proj(windows))  # batch windows heads area head_dim
        key = self._split_heads(self.k_proj(windows))  # batch windows heads area head_dim
        value = self._split_heads(self.v_proj(windows))  # batch windows heads area head_dim
        exponent = torch.clip(at_least_float32(self.logit_scale[...]), max=math.log(self.max_scale))  # heads
        heads, weights = attend(
            torch.exp(exponent)[None, None, :, None, None] * unit_vectors(query),
            unit_vectors(key),
            at_least_float32(value),
            self._position_bias(x),
            mask,
            scale=1.0,
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(query, key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        merged = rearrange(heads.to(value.dtype), "b windows heads area d -> b windows area (heads d)")
        output = merge_windows(self.out_proj(merged), side, *padded.shape[1:3])
        output = torch.roll(output, (shift, shift), (1, 2)) if shift else output
        return GridOutput(first(first(output, height, 1), width, 2), weights)  # batch height width embed

    def _position_bias(
        self, x: Float[Tensor, "batch height width embed"]
    ) -> Float[Tensor, "1 1 heads area area"]:
        """Bias of the scores for the positions within a window."""
        side = self.window_size
        like = at_least_float32(self.logit_scale[...])
        offsets = log_spaced_offsets(side, self.pretrained_window, like)  # positions 2
        hidden = relu(self.position_hidden_proj(offsets.to(x.dtype)))  # positions hidden
        table = 16.0 * sigmoid(at_least_float32(self.position_proj(hidden)))  # positions heads
        bias = table[relative_positions(side, device=x.device)]  # area area heads
        return rearrange(bias, "query key heads -> 1 1 heads query key")

    def _split_heads(
        self, x: Float[Tensor, "batch windows area embed"]
    ) -> Float[Tensor, "batch windows heads area head_dim"]:
        return rearrange(x, "b windows area (heads d) -> b windows heads area d", heads=self.num_heads)


def main() -> None:
    """Show the four shifted windows of a 4 by 4 grid; the mask divides three of them."""
    from torch_attention.demonstration import draw, fill

    attention = fill(CosineWindowAttention(embed_dim=4, num_heads=1, window_size=2, shift=1))
    output, weights = attention(draw(1, 4, 4, 4))
    assert weights is not None
    print("CosineWindowAttention: output", tuple(output.shape), "weights", tuple(weights.shape))
    for number, window in enumerate(weights[0, :, 0].tolist()):
        print(f"window {number}")
        for row in window:
            print(" ".join(f"{weight:.3f}" for weight in row))


if __name__ == "__main__":
    main()
