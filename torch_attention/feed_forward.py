"""Position-wise feed-forward networks of Transformer blocks."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.activations import activation_function, sigmoid
from torch_attention.arguments import checked
from torch_attention.checks import has_size
from torch_attention.layers import Dropout, Factory, linear, scaled


@checked
class FeedForward(nn.Module):
    """Feed-forward network: down(activation(up(x))) (Vaswani et al. 2017, section 3.3).

    Args:
        embed_dim: features of input and output.
        ffn_dim: hidden features.
        activation: `"relu"`, `"relu_squared"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"`, `"silu"` or `"tanh"`.
        bias: whether the two projections have biases.
        dropout: dropout rate of the hidden features in training.

    Raises:
        ValueError: an unknown activation, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        *,
        activation: str = "relu",
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.up_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.down_proj = linear(ffn_dim, embed_dim, bias=bias, **factory)
        self.activation = activation_function(activation)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch *places embed"],
        *,
        dropout_keep: Bool[Tensor, "batch *places ffn"] | None = None,
    ) -> Float[Tensor, "batch *places embed"]:
        """Apply the network to each position.

        Args:
            x: input sequence, `(batch, length, embed_dim)`, or grid, `(batch, height, width, embed_dim)`.
            dropout_keep: boolean dropout mask of the hidden features, True keeps; used instead of sampling one.
        """
        _check_places("x", x, self.embed_dim)
        hidden = self.activation(self.up_proj(x))  # batch *places ffn
        return self.down_proj(self.dropout(hidden, dropout_keep))  # batch *places embed


@checked
class GatedFeedForward(nn.Module):
    """Gated feed-forward network: down(activation(gate(x)) * up(x)) (Shazeer 2020).

    It is SwiGLU with `activation="silu"`, and GEGLU with `"gelu"`.

    Args:
        embed_dim: features of input and output.
        ffn_dim: hidden features.
        activation: activation of the gate; any activation of `FeedForward`.
        bias: whether the three projections have biases.
        gate_scale: factor on the gate before its activation, as in Falcon-H1.
        output_scale: factor on the output.

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        *,
        activation: str = "silu",
        bias: bool = False,
        gate_scale: float = 1.0,
        output_scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.gate_scale = gate_scale
        self.output_scale = output_scale
        self.gate_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.up_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.down_proj = linear(ffn_dim, embed_dim, bias=bias, **factory)
        self.activation = activation_function(activation)

    def forward(self, x: Float[Tensor, "batch *places embed"]) -> Float[Tensor, "batch *places embed"]:
        """Apply the network to each position of `x`, a sequence or a grid, as in `FeedForward`."""
        _check_places("x", x, self.embed_dim)
        gate = scaled(self.gate_proj(x), self.gate_scale)  # batch *places ffn
        hidden = self.activation(gate) * self.up_proj(x)  # batch *places ffn
        return scaled(self.down_proj(hidden), self.output_scale)  # batch *places embed


@checked
class ClampedFeedForward(nn.Module):
    """Clamped gated feed-forward network: down((up(x) + 1) * g * sigmoid(1.702 g)), g = gate(x) (OpenAI 2025, gpt-oss).

    Args:
        embed_dim: features of input and output.
        ffn_dim: hidden features.
        limit: upper bound of gate(x), and bound of the absolute value of up(x).
        bias: whether the three projections have biases.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        *,
        limit: float = 7.0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.limit = limit
        self.gate_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.up_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.down_proj = linear(ffn_dim, embed_dim, bias=bias, **factory)

    def forward(self, x: Float[Tensor, "batch *places embed"]) -> Float[Tensor, "batch *places embed"]:
        """Apply the network to each position of `x`, a sequence or a grid, as in `FeedForward`."""
        _check_places("x", x, self.embed_dim)
        gate = torch.clip(self.gate_proj(x), max=self.limit)  # batch *places ffn
        up = torch.clip(self.up_proj(x), -self.limit, self.limit)  # batch *places ffn
        return self.down_proj((up + 1.0) * gate * sigmoid(1.702 * gate))  # batch *places embed


def _check_places(name: str, x: Tensor, dim: int) -> None:
    """Raise ValueError unless `x` is a sequence `(batch, length, dim)` or a grid `(batch, height, width, dim)`."""
    if x.ndim not in (3, 4) or not has_size(x.shape[-1], dim):
        raise ValueError(
            f"{name} must have shape (batch, length, {dim}) or (batch, height, width, {dim}), got {tuple(x.shape)}"
        )
