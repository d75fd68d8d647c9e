"""LayerScale: a learned factor for each feature of a sublayer's output (Touvron et al. 2021, CaiT)."""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.layers import Factory, constant_parameter


@checked
class LayerScale(nnx.Module):
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
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.factors = constant_parameter(dim, value=value, **factory)

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        """Multiply the last axis of `x` by the factors."""
        return x * self.factors[...].astype(x.dtype)


@checked
def layer_scale(dim: int, *, value: float = 1.0, **factory: Unpack[Factory]) -> LayerScale:
    """A learned factor for each feature, without normalisation (Touvron et al. 2021)."""
    return LayerScale(dim, value=value, **factory)
