"""Square roots whose gradient at zero is zero instead of infinite."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jax_attention.ops import at_least_float32


def root(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Square root of numbers of at least 0, with the gradient 0 at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def root_mean_square(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch one"]:
    """Root mean square of the last axis, in at least float32."""
    wide = at_least_float32(x)
    return root((wide * wide).mean(axis=-1, keepdims=True))
