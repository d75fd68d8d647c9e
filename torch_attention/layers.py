"""The parts that mechanisms are built from; nothing here rests on a framework's default."""

import math
from collections.abc import Callable
from typing import TypedDict, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_keep, check_rate
from torch_attention.ops import at_least_float32


class Factory(TypedDict):
    """Where and in what precision parameters are made; passed on from constructor to constructor."""

    device: torch.device | str | None
    dtype: torch.dtype | None


@checked
def linear(
    in_features: int, out_features: int, *, bias: bool = True, **factory: Unpack[Factory]
) -> nn.Linear:
    """An affine map; weights are Glorot-uniform (Glorot & Bengio 2010), biases zero."""
    layer = _Linear(in_features, out_features, bias=bias, **factory)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class _Linear(nn.Linear):
    """`nn.Linear`, with `_affine` for its product."""

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        return _affine(x, self.weight, self.bias)


_FEW_ROWS = 32
_LARGE = 2**17
_SHARES = 8


def _affine(
    x: Float[Tensor, "*batch in_features"],
    weight: Float[Tensor, "out_features in_features"],
    bias: Float[Tensor, " out_features"] | None,
) -> Float[Tensor, "*batch out_features"]:
    """Return x W^T + b.

    A product of few rows takes as long as W takes to be read, and on the CPU one thread reads all of it; in a batch
    of products, one for each share of W, all threads read.
    """
    rows = math.prod(x.shape[:-1])
    few = 0 < rows <= _FEW_ROWS and weight.numel() >= _LARGE and x.device.type == "cpu"
    if not few or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    flat = x.reshape(1, rows, -1).expand(_SHARES, -1, -1)  # shares rows in_features
    whole = weight.shape[0] // _SHARES * _SHARES
    shares = weight[:whole].unflatten(0, (_SHARES, -1)).mT  # shares in_features out_features/shares
    output = torch.bmm(flat, shares).transpose(0, 1).reshape(rows, whole)
    if whole < weight.shape[0]:
        output = torch.cat([output, flat[0] @ weight[whole:].mT], dim=-1)  # rows out_features
    output = output if bias is None else output + bias
    return output.reshape(*x.shape[:-1], -1)


def weight_matrix(layer: nn.Linear) -> Float[Tensor, "in_features out_features"]:
    """W of an affine map x W + b."""
    return layer.weight.mT


@checked
def layer_norm(dim: int, *, eps: float = 1e-5, bias: bool = True, **factory: Unpack[Factory]) -> nn.LayerNorm:
    """Layer normalisation over the last axis with the plain, biased variance (Ba et al. 2016)."""
    return nn.LayerNorm(dim, eps=eps, bias=bias, **factory)


class _OffsetRMSNorm(nn.RMSNorm):
    """An RMS norm that multiplies by 1 + its weight, which starts at zero; see `rms_norm`."""

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
    """Division by the root mean square over the last axis, times a learned scale (Zhang & Sennrich 2019).

    With `unit_offset` times 1 + scale, as in Gemma (Google 2024).
    """
    if unit_offset:
        norm = _OffsetRMSNorm(dim, eps=eps, **factory)
        nn.init.zeros_(norm.weight)
        return norm
    return nn.RMSNorm(dim, eps=eps, **factory)


@checked
def embedding(num_embeddings: int, dim: int, **factory: Unpack[Factory]) -> nn.Embedding:
    """A table of vectors, drawn from a normal distribution of standard deviation 0.02 (Devlin et al. 2018)."""
    table = nn.Embedding(num_embeddings, dim, **factory)
    nn.init.normal_(table.weight, std=0.02)
    return table


def similarities(
    table: nn.Embedding, x: Float[Tensor, "*batch embed"]
) -> Float[Tensor, "*batch num_embeddings"]:
    """Return x E^T: the dot product of `x` with each vector of the table."""
    return _affine(x, table.weight, None)


def parameter(*shape: int, std: float = 0.02, **factory: Unpack[Factory]) -> nn.Parameter:
    """An array to be learned, drawn from a normal distribution; read it as `self.name[...]`."""
    return nn.Parameter(nn.init.normal_(torch.empty(shape, **factory), std=std))


def uniform_parameter(
    *shape: int,
    between: tuple[float, float],
    through: Callable[[Tensor], Tensor],
    **factory: Unpack[Factory],
) -> nn.Parameter:
    """An array to be learned, drawn uniformly and put through a function; read it as `self.name[...]`."""
    return nn.Parameter(through(nn.init.uniform_(torch.empty(shape, **factory), *between)))


def constant_parameter(*shape: int, value: float, **factory: Unpack[Factory]) -> nn.Parameter:
    """An array to be learned, from one number on; read it as `self.name[...]`."""
    return nn.Parameter(torch.full(shape, value, **factory))


def normal_buffer(*shape: int, std: float = 1.0, **factory: Unpack[Factory]) -> nn.Buffer:
    """An array that was drawn once and is never learned: it is saved and converted with the parameters."""
    return nn.Buffer(nn.init.normal_(torch.empty(shape, **factory), std=std))


class _Conv1d(nn.Conv1d):
    """A convolution over `(batch, length, channels)`; see `conv1d`."""

    pads: tuple[int, int]

    def forward(self, x: Float[Tensor, "batch length channels"]) -> Float[Tensor, "batch out_length out"]:
        """Convolve, after zeros were laid before and after the sequence."""
        return super().forward(F.pad(x.mT, self.pads)).mT


@checked
def conv1d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    bias: bool = True,
    **factory: Unpack[Factory],
) -> nn.Conv1d:
    """A convolution over `(batch, length, channels)` with `padding` zeros before and after; groups share nothing."""
    layer = _Conv1d(
        in_channels, out_channels, kernel_size, stride=stride, groups=groups, bias=bias, **factory
    )
    layer.pads = padding
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class _Conv2d(nn.Conv2d):
    """A convolution over `(batch, height, width, channels)`; see `conv2d`."""

    pads: tuple[int, int, int, int]

    def forward(
        self, x: Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch out_height out_width out"]:
        """Convolve, after zeros were laid around the image."""
        return super().forward(F.pad(x.permute(0, 3, 1, 2), self.pads)).permute(0, 2, 3, 1)


@checked
def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    bias: bool = True,
    **factory: Unpack[Factory],
) -> nn.Conv2d:
    """A convolution over `(batch, height, width, channels)` with `padding` zeros on both sides of each axis."""
    layer = _Conv2d(
        in_channels, out_channels, kernel_size, stride=stride, groups=groups, bias=bias, **factory
    )
    layer.pads = (padding[1], padding[1], padding[0], padding[0])
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


@checked
class Dropout(nn.Module):
    """Zeroes entries at random in training and scales the others up (Srivastava et al. 2014).

    A keep-mask may be given to every call; it then stands for the draw, in training or not.

    Args:
        rate: the probability that an entry is dropped.

    Raises:
        ValueError: `rate` is not in [0, 1).
    """

    def __init__(self, rate: float):
        super().__init__()
        check_rate(rate)
        self.rate = rate

    def forward(
        self, x: Float[Tensor, "*axes"], keep: Bool[Tensor, "*axes"] | None = None
    ) -> Float[Tensor, "*axes"]:
        """Drop from `x` where `keep`, given or drawn, is False."""
        keep = self._draw(x.shape, x) if keep is None else keep
        if keep is None:
            return x
        check_keep(keep, x.shape)
        return torch.where(keep, x / (1.0 - self.rate), 0.0)

    @property
    def draws(self) -> bool:
        """Whether a call that is given no keep-mask draws one."""
        return self.training and self.rate > 0.0

    def keep_weights(
        self,
        query: Float[Tensor, "*heads query query_dim"],
        key: Float[Tensor, "... key key_dim"],
        keep: Bool[Tensor, "..."] | None,
    ) -> Bool[Tensor, "..."] | None:
        """Which attention weights to keep: as given, else a fresh draw, else None for all."""
        return self._draw((*query.shape[:-1], key.shape[-2]), query) if keep is None else keep

    def _draw(self, shape: tuple[int, ...], like: Tensor) -> Bool[Tensor, "..."] | None:
        if not self.draws:
            return None
        return torch.rand(shape, device=like.device) >= self.rate
