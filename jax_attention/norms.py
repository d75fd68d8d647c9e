"""Layer norm and RMS norm, with explicit defaults equal in both frameworks."""

from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import initializers
from jax import Array
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.layers import Factory
from jax_attention.ops import at_least_float32


def normalise(norm: nnx.Module, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Call a normalisation layer, which computes in at least float32."""
    with jax.numpy_dtype_promotion("standard"):  # Flax promotes 16-bit inputs implicitly
        return norm(x)


def normalise_wide(norm: nnx.Module, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Call a normalisation layer on an input of a wider dtype than its scale, and return that dtype."""
    return normalise(norm, x)


class _OffsetLayerNorm(nnx.LayerNorm):
    """Layer norm that multiplies by 1 + scale, with a scale initialised to zero; see `layer_norm`."""

    scale: nnx.Param[Array]

    def __call__(
        self, x: Float[Array, "*batch dim"], *, mask: Array | None = None
    ) -> Float[Array, "*batch dim"]:
        """Normalise the last axis, in at least float32."""
        wide = at_least_float32(x)
        centred = wide - wide.mean(-1, keepdims=True)
        deviation = jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        normed = centred / deviation * (1.0 + self.scale[...].astype(wide.dtype))
        return (normed if self.bias is None else normed + self.bias[...].astype(wide.dtype)).astype(x.dtype)


@checked
def layer_norm(
    dim: int,
    *,
    eps: float = 1e-5,
    bias: bool = True,
    unit_offset: bool = False,
    learned: bool = True,
    **factory: Unpack[Factory],
) -> nnx.LayerNorm:
    """Layer normalisation over the last axis with the plain, biased variance (Ba et al. 2016).

    With `unit_offset`, the factor is 1 + scale, as in Nemotron (Parmar et al. 2024). Without `learned`, the norm has no
    scale and no bias, as in OLMo (Groeneveld et al. 2024).
    """
    if unit_offset:
        return _OffsetLayerNorm(
            dim,
            epsilon=eps,
            use_bias=bias,
            scale_init=initializers.zeros,
            use_fast_variance=False,
            **factory,
        )
    return nnx.LayerNorm(
        dim, epsilon=eps, use_bias=bias and learned, use_scale=learned, use_fast_variance=False, **factory
    )


class _OffsetRMSNorm(nnx.RMSNorm):
    """RMS norm that multiplies by 1 + scale, with a scale initialised to zero; see `rms_norm`."""

    scale: nnx.Param[Array]

    def __call__(
        self, x: Float[Array, "*batch dim"], mask: Array | None = None
    ) -> Float[Array, "*batch dim"]:
        """Normalise the last axis, in at least float32."""
        wide = at_least_float32(x)
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        return (normed * (1.0 + self.scale[...].astype(wide.dtype))).astype(x.dtype)


@checked
def rms_norm(
    dim: int, *, eps: float = 1e-6, unit_offset: bool = False, **factory: Unpack[Factory]
) -> nnx.RMSNorm:
    """RMS normalisation over the last axis with a learned scale (Zhang & Sennrich 2019).

    With `unit_offset`, the factor is 1 + scale, as in Gemma (Google 2024).
    """
    if unit_offset:
        return _OffsetRMSNorm(dim, epsilon=eps, scale_init=initializers.zeros, **factory)
    return nnx.RMSNorm(dim, epsilon=eps, use_fast_variance=False, **factory)


def unit_rms(x: Float[Array, "*batch dim"], *, eps: float = 1e-6) -> Float[Array, "*batch dim"]:
    """Divide the last axis by its root mean square, in at least float32: an RMS norm without a learned scale."""
    wide = at_least_float32(x)
    return (wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + eps)).astype(x.dtype)
