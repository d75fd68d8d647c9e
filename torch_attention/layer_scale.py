"""LayerScale: a learned factor for each feature of a sublayer's output (Touvron et al. 2021, CaiT)."""

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.layers import Factory, constant_parameter


@checked
class LayerScale(nn.Module):
    """A learned factor for each feature, without normalisation (Touvron et al. 2021, section 2.1).

    Args:
        dim: number of features.
        value: initial value of the factors.
    """

    def __init__(
        self,
        dim: int,
        *,
        value: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.factors = constant_parameter(dim, value=value, **factory)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Multiply the last axis of `x` by the factors."""
        return x * self.factors[...].to(x.dtype)


@checked
def layer_scale(dim: int, *, value: float = 1.0, **factory: Unpack[Factory]) -> LayerScale:
    """A learned factor for each feature, without normalisation (Touvron et al. 2021)."""
    return LayerScale(dim, value=value, **factory)
