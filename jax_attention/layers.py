"""Layers and parameters that the mechanisms are built from, with explicit defaults equal in both frameworks."""

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import initializers
from jax import Array
from jax.sharding import AxisType, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.checks import check_keep, check_rate


class Factory(TypedDict):
    """Random streams and dtypes of new parameters, passed from constructor to constructor."""

    rngs: nnx.Rngs
    param_dtype: DTypeLike
    dtype: DTypeLike | None


@checked
def linear(
    in_features: int, out_features: int, *, bias: bool = True, **factory: Unpack[Factory]
) -> nnx.Linear:
    """Linear layer with Glorot-uniform weights (Glorot & Bengio 2010) and zero biases."""
    weight, zeros = initializers.glorot_uniform(), initializers.zeros
    return nnx.Linear(
        in_features, out_features, use_bias=bias, kernel_init=weight, bias_init=zeros, **factory
    )


def weight_matrix(layer: nnx.Linear) -> Float[Array, "in_features out_features"]:
    """Weight matrix W of a linear layer x W + b."""
    return layer.kernel[...]


def linear_map(
    layer: nnx.Module, x: Float[Array, "*batch in_features"]
) -> Float[Array, "in_features out_features"]:
    """Matrix W of the linear map x W that a layer without a bias applies to `x`.

    For a plain layer, W is its weight. A layer that was wrapped, replaced or hooked, as by LoRA or quantisation, is
    called on the identity matrix, because its map differs from its weight.
    """
    if type(layer) is nnx.Linear:
        return weight_matrix(layer)
    return layer(jnp.eye(x.shape[-1], dtype=x.dtype))


def precise(layer: nnx.Module, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Call a layer in the precision of its parameters, without autocast; for scores that a selection depends on."""
    return layer(x)


@checked
def embedding(num_embeddings: int, dim: int, **factory: Unpack[Factory]) -> nnx.Embed:
    """Embedding table, initialised from a normal distribution of standard deviation 0.02 (Devlin et al. 2018)."""
    return nnx.Embed(num_embeddings, dim, embedding_init=initializers.normal(0.02), **factory)


def similarities(table: nnx.Embed, x: Float[Array, "*batch embed"]) -> Float[Array, "*batch num_embeddings"]:
    """Dot products of `x` with each vector of an embedding table: x E^T."""
    return table.attend(x)


def scaled(x: Float[Array, "*axes"], factor: float) -> Float[Array, "*axes"]:
    """Multiply by a factor; a factor of 1 returns `x` itself."""
    return x if factor == 1.0 else x * factor


def parameter(*shape: int, std: float = 0.02, **factory: Unpack[Factory]) -> nnx.Param[Array]:
    """Parameter initialised from a normal distribution; read it as `self.name[...]`."""
    return nnx.Param(initializers.normal(std)(factory["rngs"].params(), shape, factory["param_dtype"]))


def uniform_parameter(
    *shape: int,
    between: tuple[float, float],
    through: Callable[[Array], Array],
    **factory: Unpack[Factory],
) -> nnx.Param[Array]:
    """Parameter initialised to a function of uniform random numbers; read it as `self.name[...]`."""
    low, high = between
    return nnx.Param(
        through(jax.random.uniform(factory["rngs"].params(), shape, factory["param_dtype"], low, high))
    )


def constant_parameter(*shape: int, value: float, **factory: Unpack[Factory]) -> nnx.Param[Array]:
    """Parameter initialised to a constant; read it as `self.name[...]`."""
    return nnx.Param(jnp.full(shape, value, factory["param_dtype"]))


class _Buffer(nnx.Variable[Array]):
    """Array that is not trained, but is saved and converted with the parameters."""


def constant_buffer(*shape: int, value: float, **factory: Unpack[Factory]) -> nnx.Variable[Array]:
    """Constant array that is not trained, but is saved and converted with the parameters."""
    return _Buffer(jnp.full(shape, value, factory["param_dtype"]))


def normal_buffer(*shape: int, std: float = 1.0, **factory: Unpack[Factory]) -> nnx.Variable[Array]:
    """Normal random array that is not trained, but is saved and converted with the parameters."""
    return _Buffer(initializers.normal(std)(factory["rngs"].params(), shape, factory["param_dtype"]))


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
) -> nnx.Conv:
    """Convolution over a sequence, padded with `padding` zeros on both sides; call it with `convolve`."""
    around = ((padding, padding),)
    return _conv(in_channels, out_channels, (kernel_size,), (stride,), around, groups, bias, factory)


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
) -> nnx.Conv:
    """Convolution over height and width, each padded with zeros on both sides; call it with `convolve`."""
    around = tuple((size, size) for size in padding)
    return _conv(in_channels, out_channels, kernel_size, stride, around, groups, bias, factory)


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    groups: int,
    bias: bool,
    factory: Factory,
) -> nnx.Conv:
    return nnx.Conv(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=padding,
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=initializers.glorot_uniform(),
        bias_init=initializers.zeros,
        **factory,
    )


def convolve(
    layer: nnx.Module, x: Float[Array, "batch *places channels"]
) -> Float[Array, "batch *out_places out_channels"]:
    """Apply a convolution to `(batch, length, channels)` or `(batch, height, width, channels)`."""
    # If the sequence is sharded or the convolution has groups, and a mesh axis shards nothing, XLA 0.10 sums the
    # gradient of the kernel once per device along that axis; the constraints below avoid this.
    conv: Any = layer
    if AxisType.Auto not in jax.sharding.get_abstract_mesh().axis_types:
        return layer(x)
    free = None if conv.feature_group_count > 1 else PartitionSpec.UNCONSTRAINED
    plain = type(conv) is nnx.Conv and (conv.padding, conv.strides) == (((0, 0),), (1,))
    if plain and x.ndim == 3 and conv.feature_group_count == x.shape[-1]:
        return _short_convolution(conv, x)
    whole = PartitionSpec(free, *(None,) * (x.ndim - 2), free)
    constrain = jax.lax.with_sharding_constraint
    return constrain(layer(constrain(x, whole)), whole)


def convolve_with(
    kernel: Float[Array, "out_channels group_channels kernel"],
    bias: Float[Array, "out_channels"],
    x: Float[Array, "batch length channels"],
    *,
    padding: int,
    groups: int,
) -> Float[Array, "batch out_length out_channels"]:
    """Convolution with a given kernel over a sequence, padded with `padding` zeros on both sides."""
    if AxisType.Auto in jax.sharding.get_abstract_mesh().axis_types:  # as in `convolve`
        free = None if groups > 1 else PartitionSpec.UNCONSTRAINED
        x = jax.lax.with_sharding_constraint(x, PartitionSpec(free, None, free))
    around, axes = ((padding, padding),), ("NWC", "OIW", "NWC")
    kernel = kernel.astype(x.dtype)
    output = jax.lax.conv_general_dilated(
        x, kernel, (1,), around, dimension_numbers=axes, feature_group_count=groups
    )
    return output + bias.astype(x.dtype)


def _short_convolution(conv: Any, x: Float[Array, "batch length features"]) -> Float[Array, "..."]:
    """Depthwise convolution as a sum over its taps, which keeps the sharding of the batch and the features."""
    bias = None if conv.bias is None else conv.bias[...]
    x, kernel, bias = conv.promote_dtype((x, conv.kernel[...], bias), dtype=conv.dtype)
    length = x.shape[1] - len(kernel) + 1
    output = sum(tap * x[:, n : n + length] for n, tap in enumerate(kernel))  # batch length features
    return output if bias is None else output + bias


@checked
class Dropout(nnx.Module):
    """Dropout: zeroes random entries in training and rescales the others (Srivastava et al. 2014).

    A call accepts an explicit dropout mask, which is used instead of sampling one, in training or not.

    Args:
        rate: probability that an entry is dropped, in [0, 1).
        rngs: random streams, of which `dropout` is used; may be None at rate 0.

    Raises:
        ValueError: `rate` is not in [0, 1), or it is above 0 without `rngs`.
    """

    def __init__(self, rate: float, *, rngs: nnx.Rngs | None = None):
        check_rate(rate)
        if rate > 0.0 and rngs is None:
            raise ValueError(f"dropout={rate} needs rngs to draw from, got None")
        self.rate = rate
        self.deterministic = False  # set by `module.eval()` and `module.train()`
        self.rngs = None if rngs is None or rate == 0.0 else rngs.dropout.fork()

    def __call__(
        self, x: Float[Array, "*axes"], keep: Bool[Array, "*axes"] | None = None
    ) -> Float[Array, "*axes"]:
        """Apply dropout to `x`; `keep` is a boolean dropout mask, True keeps, used instead of sampling one."""
        keep = self._draw(x.shape, x) if keep is None else keep
        if keep is None:
            return x
        check_keep(keep, x.shape)
        return jnp.where(keep, x / (1.0 - self.rate), 0.0)

    @property
    def draws(self) -> bool:
        """Whether a call without a dropout mask samples one."""
        return not self.deterministic and self.rngs is not None

    def keep_weights(
        self,
        query: Float[Array, "*heads query query_dim"],
        key: Float[Array, "... key key_dim"],
        keep: Bool[Array, "..."] | None,
    ) -> Bool[Array, "..."] | None:
        """Dropout mask of the attention weights: the given one, else a sampled one, else None outside training."""
        return self._draw((*query.shape[:-1], key.shape[-2]), query) if keep is None else keep

    def seed(self) -> Any:
        """Random key for `keep_tile`; None without dropout, and for PyTorch's global generator."""
        return self.rngs() if self.draws and self.rngs is not None else None

    def keep_tile(
        self, shape: tuple[int, ...], like: Array, seed: Any, number: Any
    ) -> Bool[Array, "..."] | None:
        """Sampled dropout mask of one tile of attention weights, different for each tile number; None for none."""
        if seed is None:
            return None
        return jax.random.uniform(jax.random.fold_in(seed, number), shape) >= self.rate

    def _draw(self, shape: tuple[int, ...], like: Array) -> Bool[Array, "..."] | None:
        if not self.draws or self.rngs is None:
            return None
        return jax.random.uniform(self.rngs(), shape) >= self.rate
