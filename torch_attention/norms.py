"""Layer norm and RMS norm, with explicit defaults equal in both frameworks."""

from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.layers import Factory
from torch_attention.ops import at_least_float32


def normalise(norm: nn.Module, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Call a normalisation layer, which computes in at least float32."""
    return norm(x)


def normalise_wide(norm: nn.Module, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Call a normalisation layer on an input of a wider dtype than its scale, and return that dtype."""
    if all(each.dtype == x.dtype for each in norm.parameters()):
        return normalise(norm, x)
    wide = {name: each.to(x.dtype) for name, each in norm.named_parameters()}
    return torch.func.functional_call(norm, wide, (x,))


class _OffsetLayerNorm(nn.LayerNorm):
    """Layer norm that multiplies by 1 + weight, with a weight initialised to zero; see `layer_norm`."""

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Normalise the last axis, in at least float32."""
        wide = at_least_float32(x)
        bias = None if self.bias is None else self.bias.to(wide.dtype)
        normed = F.layer_norm(wide, wide.shape[-1:], 1.0 + self.weight.to(wide.dtype), bias, self.eps)
        return normed.to(x.dtype)


@checked
def layer_norm(
    dim: int,
    *,
    eps: float = 1e-5,
    bias: bool = True,
    unit_offset: bool = False,
    learned: bool = True,
    **factory: Unpack[Factory],
) -> nn.LayerNorm:
    """Layer normalisation over the last axis with the plain, biased variance (Ba et al. 2016).

    With `unit_offset`, the factor is 1 + scale, as in Nemotron (Parmar et al. 2024). Without `learned`, the norm has no
    scale and no bias, as in OLMo (Groeneveld et al. 2024).
    """
    if unit_offset:
        norm = _OffsetLayerNorm(dim, eps=eps, bias=bias, **factory)
        nn.init.zeros_(norm.weight)
        return norm
    return nn.LayerNorm(dim, eps=eps, elementwise_affine=learned, bias=bias, **factory)


class _OffsetRMSNorm(nn.RMSNorm):
    """RMS norm that multiplies by 1 + weight, with a weight initialised to zero; see `rms_norm`."""

    eps: float

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Normalise the last axis, in at least float32."""
        wide = at_least_float32(x)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (normed * (1.0 + self.weight.to(wide.dtype))).to(x.dtype)


@checked
def rms_norm(
    dim: int, *, eps: float = 1e-6, unit_offset: bool = False, **factory: Unpack[Factory]
) -> nn.RMSNorm:
    """RMS normalisation over the last axis with a learned scale (Zhang & Sennrich 2019).

    With `unit_offset`, the factor is 1 + scale, as in Gemma (Google 2024).
    """
    if unit_offset:
        norm = _OffsetRMSNorm(dim, eps=eps, **factory)
        nn.init.zeros_(norm.weight)
        return norm
    return nn.RMSNorm(dim, eps=eps, **factory)


def unit_rms(x: Float[Tensor, "*batch dim"], *, eps: float = 1e-6) -> Float[Tensor, "*batch dim"]:
    """Divide the last axis by its root mean square, in at least float32: an RMS norm without a learned scale."""
    wide = at_least_float32(x)
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
