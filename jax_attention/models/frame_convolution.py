"""Convolutions that turn samples of sound into frames, each with a norm and an activation."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float

from jax_attention.activations import activation_function
from jax_attention.layers import Factory, constant_parameter, conv1d, convolve
from jax_attention.norms import layer_norm, normalise
from jax_attention.ops import at_least_float32


class ChannelNorm(nnx.Module):
    """Normalise each channel over the real frames of a sequence; a group norm with one channel per group."""

    def __init__(self, channels: int, *, eps: float = 1e-5, factory: Factory):
        self.eps = eps
        self.gain = constant_parameter(channels, value=1.0, **factory)
        self.offset = constant_parameter(channels, value=0.0, **factory)

    def __call__(
        self, x: Float[Array, "batch length channels"], real: Bool[Array, "batch length"] | None
    ) -> Float[Array, "batch length channels"]:
        """Normalise in at least float32."""
        wide = at_least_float32(x)  # batch length channels
        there = jnp.ones_like(wide[..., :1]) if real is None else jnp.where(real[..., None], 1.0, 0.0)
        there = there.astype(wide.dtype)  # batch length 1
        count = there.sum(axis=1, keepdims=True)  # batch 1 1
        count = jnp.where(count > 0, count, 1.0)  # batch 1 1
        mean = (wide * there).sum(axis=1, keepdims=True) / count  # batch 1 channels
        centred = (wide - mean) * there  # batch length channels
        variance = (centred * centred).sum(axis=1, keepdims=True) / count  # batch 1 channels
        normed = centred / jnp.sqrt(variance + self.eps)  # batch length channels
        return (normed * self.gain[...].astype(wide.dtype) + self.offset[...].astype(wide.dtype)).astype(
            x.dtype
        )


class FrameConvolution(nnx.Module):
    """A convolution over time, a norm and an activation.

    Args:
        in_channels, out_channels: features per frame of input and output.
        kernel_size, stride: frames that the convolution sees, and steps between two outputs.
        bias: whether the convolution has a bias.
        norm: `"channel"` for a norm of each channel over time, `"layer"` for one of each frame; None for none.
        activation: activation, as in `FeedForward`.
        factory: arguments of `Factory`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        *,
        bias: bool,
        norm: str | None,
        activation: str,
        factory: Factory,
    ):
        self.kernel_size = kernel_size
        self.stride = stride
        self.conv = conv1d(in_channels, out_channels, kernel_size, stride=stride, bias=bias, **factory)
        self.channel_norm: Any = ChannelNorm(out_channels, factory=factory) if norm == "channel" else None
        self.norm: Any = layer_norm(out_channels, **factory) if norm == "layer" else None
        self.activation = activation_function(activation)

    def __call__(
        self, x: Float[Array, "batch length channels"], real: Bool[Array, "batch frames"] | None
    ) -> Float[Array, "batch frames out_channels"]:
        """Compute the frames; `real` is True at frames that are not padding, None if there is no padding."""
        x = convolve(self.conv, x)  # batch frames out_channels
        x = x if self.channel_norm is None else self.channel_norm(x, real)
        return self.activation(x if self.norm is None else normalise(self.norm, x))

    def frame_mask(self, real: Bool[Array, "batch length"]) -> Bool[Array, "batch frames"]:
        """Boolean mask of the output, True where the convolution sees only real frames."""
        starts = jnp.arange(0, real.shape[1] - self.kernel_size + 1, self.stride)  # frames
        taps = jnp.arange(self.kernel_size)  # kernel
        return real[:, starts[:, None] + taps].all(-1)
