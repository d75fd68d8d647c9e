"""Norms of the queries and keys of each head, with parameters for each head."""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.layers import Factory, constant_parameter
from jax_attention.ops import at_least_float32


@checked
class HeadLayerNorm(nnx.Module):
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
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.eps = eps
        self.head_scale = constant_parameter(num_heads, dim, value=1.0, **factory)

    def __call__(self, x: Float[Array, "batch heads length dim"]) -> Float[Array, "batch heads length dim"]:
        """Normalise the last axis, in at least float32."""
        wide = at_least_float32(x)
        wide = wide - wide.mean(-1, keepdims=True)
        wide = wide / jnp.sqrt((wide * wide).mean(-1, keepdims=True) + self.eps)
        return (wide * self.head_scale[...].astype(wide.dtype)[:, None]).astype(x.dtype)


@checked
def head_layer_norm(
    num_heads: int, dim: int, *, eps: float = 1e-5, **factory: Unpack[Factory]
) -> HeadLayerNorm:
    """Layer normalisation of each head's features, with a scale for each head and no bias (Cohere, 2024)."""
    return HeadLayerNorm(num_heads, dim, eps=eps, **factory)
