"""The feed-forward network of a Transformer block, applied to each position by itself."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.activations import activation_function, sigmoid
from torch_attention.arguments import checked
from torch_attention.checks import check_sequence
from torch_attention.layers import Dropout, Factory, linear


@checked
class FeedForward(nn.Module):
    """down(activation(up(x))) (Vaswani et al. 2017, section 3.3).

    Args:
        embed_dim: features of input and output.
        ffn_dim: features in between.
        activation: `"relu"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"` or `"silu"`.
        bias: whether the two maps have biases.
        dropout: rate at which the features in between are dropped in training.

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
        x: Float[Tensor, "batch length embed"],
        *,
        dropout_keep: Bool[Tensor, "batch length ffn"] | None = None,
    ) -> Float[Tensor, "batch length embed"]:
        """Transform each position; `dropout_keep` is the dropout mask of the hidden features, True keeps."""
        check_sequence("x", x, self.embed_dim)
        hidden = self.activation(self.up_proj(x))  # batch length ffn
        return self.down_proj(self.dropout(hidden, dropout_keep))  # batch length embed


@checked
class GatedFeedForward(nn.Module):
    """down(activation(gate(x)) * up(x)) (Shazeer 2020; with `"silu"` it is SwiGLU, with `"gelu"` GEGLU).

    Args:
        embed_dim: features of input and output.
        ffn_dim: features in between.
        activation: of the gate: `"silu"`, or any other that `FeedForward` takes.
        bias: whether the three maps have biases.

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.gate_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.up_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.down_proj = linear(ffn_dim, embed_dim, bias=bias, **factory)
        self.activation = activation_function(activation)

    def forward(self, x: Float[Tensor, "batch length embed"]) -> Float[Tensor, "batch length embed"]:
        """Transform each position."""
        check_sequence("x", x, self.embed_dim)
        hidden = self.activation(self.gate_proj(x)) * self.up_proj(x)  # batch length ffn
        return self.down_proj(hidden)  # batch length embed


@checked
class ClampedFeedForward(nn.Module):
    """down((up(x) + 1) * gate(x) * sigmoid(1.702 gate(x))), gate and up clamped (gpt-oss, OpenAI 2025).

    Args:
        embed_dim: features of input and output.
        ffn_dim: features in between.
        limit: what no gate exceeds, and no value of `up` in either direction.
        bias: whether the three maps have biases.
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

    def forward(self, x: Float[Tensor, "batch length embed"]) -> Float[Tensor, "batch length embed"]:
        """Transform each position."""
        check_sequence("x", x, self.embed_dim)
        gate = torch.clip(self.gate_proj(x), max=self.limit)  # batch length ffn
        up = torch.clip(self.up_proj(x), -self.limit, self.limit)  # batch length ffn
        return self.down_proj((up + 1.0) * gate * sigmoid(1.702 * gate))  # batch length embed
