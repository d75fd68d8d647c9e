"""Norms of the queries and keys of each head, with parameters for each head."""

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.layers import Factory, constant_parameter
from torch_attention.ops import at_least_float32


@checked
class HeadLayerNorm(nn.Module):
    """Layer normalisation of each head's features, with a scale for each head and no bias (Cohere, 2024).

    Args:
        num_heads: number of heads.
        dim: features of a head.
        eps: constant added to the variance.
    """

    def __init__(
        self,
        num_heads: int,
        dim: int,
        *,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.eps = eps
        self.head_scale = constant_parameter(num_heads, dim, value=1.0, **factory)

    def forward(self, x: Float[Tensor, "batch heads length dim"]) -> Float[Tensor, "batch heads length dim"]:
        """Normalise the last axis, in at least float32."""
        wide = at_least_float32(x)
        wide = wide - wide.mean(-1, keepdim=True)
        wide = wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + self.eps)
        return (wide * self.head_scale[...].to(wide.dtype)[:, None]).to(x.dtype)


@checked
def head_layer_norm(
    num_heads: int, dim: int, *, eps: float = 1e-5, **factory: Unpack[Factory]
) -> HeadLayerNorm:
    """Layer normalisation of each head's features, with a scale for each head and no bias (Cohere, 2024)."""
    return HeadLayerNorm(num_heads, dim, eps=eps, **factory)
