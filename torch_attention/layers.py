"""Layers and parameters that the mechanisms are built from, with explicit defaults equal in both frameworks."""

from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from torch_attention.arguments import checked
from torch_attention.checks import check_keep, check_rate


class Factory(TypedDict):
    """Device and dtype of new parameters, passed from constructor to constructor."""

    device: torch.device | str | None
    dtype: torch.dtype | None


@checked
def linear(
    in_features: int, out_features: int, *, bias: bool = True, **factory: Unpack[Factory]
) -> nn.Linear:
    """Linear layer with Glorot-uniform weights (Glorot & Bengio 2010) and zero biases."""
    layer = nn.Linear(in_features, out_features, bias=bias, **factory)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def weight_matrix(layer: nn.Linear) -> Float[Tensor, "in_features out_features"]:
    """Weight matrix W of a linear layer x W + b."""
    return layer.weight.mT


def linear_map(
    layer: nn.Module, x: Float[Tensor, "*batch in_features"]
) -> Float[Tensor, "in_features out_features"]:
    """Matrix W of the linear map x W that a layer without a bias applies to `x`.

    For a plain layer, W is its weight. A layer that was wrapped, replaced or hooked, as by LoRA or quantisation, is
    called on the identity matrix, because its map differs from its weight.
    """
    if type(layer) is nn.Linear and not _is_hooked(layer):
        return weight_matrix(layer)
    return layer(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device))


def _is_hooked(layer: nn.Module) -> bool:
    hooks = layer._forward_hooks or layer._forward_pre_hooks or _has_any_global_hook()
    return bool(hooks) or "forward" in vars(layer)


def precise(layer: nn.Module, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Call a layer in the precision of its parameters, without autocast; for scores that a selection depends on."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return layer(x)
    dtype = next((each.dtype for each in layer.parameters()), x.dtype)
    with torch.autocast(kind, enabled=False):
        return layer(x.to(dtype))


@checked
def embedding(num_embeddings: int, dim: int, **factory: Unpack[Factory]) -> nn.Embedding:
    """Embedding table, initialised from a normal distribution of standard deviation 0.02 (Devlin et al. 2018)."""
    table = nn.Embedding(num_embeddings, dim, **factory)
    nn.init.normal_(table.weight, std=0.02)
    return table


def similarities(
    table: nn.Embedding, x: Float[Tensor, "*batch embed"]
) -> Float[Tensor, "*batch num_embeddings"]:
    """Dot products of `x` with each vector of an embedding table: x E^T."""
    return F.linear(x, table.weight)


def scaled(x: Float[Tensor, "*axes"], factor: float) -> Float[Tensor, "*axes"]:
    """Multiply by a factor; a factor of 1 returns `x` itself."""
    return x if factor == 1.0 else x * factor


def parameter(*shape: int, std: float = 0.02, **factory: Unpack[Factory]) -> nn.Parameter:
    """Parameter initialised from a normal distribution; read it as `self.name[...]`."""
    return nn.Parameter(nn.init.normal_(torch.empty(shape, **factory), std=std))


def uniform_parameter(
    *shape: int,
    between: tuple[float, float],
    through: Callable[[Tensor], Tensor],
    **factory: Unpack[Factory],
) -> nn.Parameter:
    """Parameter initialised to a function of uniform random numbers; read it as `self.name[...]`."""
    return nn.Parameter(through(nn.init.uniform_(torch.empty(shape, **factory), *between)))


def constant_parameter(*shape: int, value: float, **factory: Unpack[Factory]) -> nn.Parameter:
    """Parameter initialised to a constant; read it as `self.name[...]`."""
    return nn.Parameter(torch.full(shape, value, **factory))


def constant_buffer(*shape: int, value: float, **factory: Unpack[Factory]) -> nn.Buffer:
    """Constant array that is not trained, but is saved and converted with the parameters."""
    return nn.Buffer(torch.full(shape, value, **factory))


def normal_buffer(*shape: int, std: float = 1.0, **factory: Unpack[Factory]) -> nn.Buffer:
    """Normal random array that is not trained, but is saved and converted with the parameters."""
    return nn.Buffer(nn.init.normal_(torch.empty(shape, **factory), std=std))


@checked
def conv1d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    bias: bool = True,
    **factory: Unpack[Factory],
) -> nn.Conv1d:
    """Convolution over a sequence, padded with `padding` zeros on both sides; call it with `convolve`."""
    return _drawn(
        nn.Conv1d(in_channels, out_channels, kernel_size, stride, padding, 1, groups, bias, **factory)
    )


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
    """Convolution over height and width, each padded with zeros on both sides; call it with `convolve`."""
    return _drawn(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, 1, groups, bias, **factory)
    )


_Conv = TypeVar("_Conv", nn.Conv1d, nn.Conv2d)


def _drawn(layer: _Conv) -> _Conv:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def convolve(
    layer: nn.Module, x: Float[Tensor, "batch *places channels"]
) -> Float[Tensor, "batch *out_places out_channels"]:
    """Apply a convolution to `(batch, length, channels)` or `(batch, height, width, channels)`."""
    conv: Any = layer
    reached = [
        size + 2 * int(pad) - kernel
        for size, pad, kernel in zip(x.shape[1:-1], conv.padding, conv.kernel_size, strict=True)
    ]
    if any(size < 0 for size in reached):  # shorter than the kernel
        counts = [max(0, size // stride + 1) for size, stride in zip(reached, conv.stride, strict=True)]
        return x.new_zeros((x.shape[0], *counts, conv.out_channels))
    return layer(_whole_sequences(x).movedim(-1, 1)).movedim(1, -1)


def convolve_with(
    kernel: Float[Tensor, "out_channels group_channels kernel"],
    bias: Float[Tensor, "out_channels"],
    x: Float[Tensor, "batch length channels"],
    *,
    padding: int,
    groups: int,
) -> Float[Tensor, "batch out_length out_channels"]:
    """Convolution with a given kernel over a sequence, padded with `padding` zeros on both sides."""
    weights = kernel.to(x.dtype), bias.to(x.dtype)
    return F.conv1d(_whole_sequences(x).movedim(-1, 1), *weights, 1, padding, 1, groups).movedim(1, -1)


def _whole_sequences(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    if not hasattr(x, "device_mesh"):
        return x
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(x, DTensor)
    return x.redistribute(placements=[each if each.is_shard(0) else Replicate() for each in x.placements])


@checked
class Dropout(nn.Module):
    """Dropout: zeroes random entries in training and rescales the others (Srivastava et al. 2014).

    A call accepts an explicit dropout mask, which is used instead of sampling one, in training or not.

    Args:
        rate: probability that an entry is dropped, in [0, 1).

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
        """Apply dropout to `x`; `keep` is a boolean dropout mask, True keeps, used instead of sampling one."""
        keep = self._draw(x.shape, x) if keep is None else keep
        if keep is None:
            return x
        check_keep(keep, x.shape)
        return torch.where(keep, x / (1.0 - self.rate), 0.0)

    @property
    def draws(self) -> bool:
        """Whether a call without a dropout mask samples one."""
        return self.training and self.rate > 0.0

    def keep_weights(
        self,
        query: Float[Tensor, "*heads query query_dim"],
        key: Float[Tensor, "... key key_dim"],
        keep: Bool[Tensor, "..."] | None,
    ) -> Bool[Tensor, "..."] | None:
        """Dropout mask of the attention weights: the given one, else a sampled one, else None outside training."""
        return self._draw((*query.shape[:-1], key.shape[-2]), query) if keep is None else keep

    def seed(self) -> Any:
        """Random key for `keep_tile`; None without dropout, and for PyTorch's global generator."""
        return None

    def keep_tile(
        self, shape: tuple[int, ...], like: Tensor, seed: Any, number: Any
    ) -> Bool[Tensor, "..."] | None:
        """Sampled dropout mask of one tile of attention weights, different for each tile number; None for none."""
        return self._draw(shape, like)

    def _draw(self, shape: tuple[int, ...], like: Tensor) -> Bool[Tensor, "..."] | None:
        if not self.draws:
            return None
        return torch.rand(shape, device=like.device) >= self.rate
