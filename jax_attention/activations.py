"""Activation functions, evaluated in at least float32 where precision matters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.ops import at_least_float32


@checked
def relu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """max(x, 0)."""
    return jax.nn.relu(x)


@checked
def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Return x Phi(x), Phi the normal distribution function, by erf (Hendrycks & Gimpel 2016)."""
    return jax.nn.gelu(at_least_float32(x), approximate=False).astype(x.dtype)


@checked
def gelu_tanh(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The tanh approximation of `gelu`; up to 5e-4 away from it."""
    return jax.nn.gelu(at_least_float32(x), approximate=True).astype(x.dtype)


@checked
def sigmoid(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(at_least_float32(x)).astype(x.dtype)


@checked
def silu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Return x sigmoid(x) (Hendrycks & Gimpel 2016; also called swish)."""
    return jax.nn.silu(at_least_float32(x)).astype(x.dtype)


@checked
def tanh(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The hyperbolic tangent."""
    return jnp.tanh(x)


@checked
def softplus(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """log(1 + exp(x)), without a threshold above which it would be x."""
    return jax.nn.softplus(at_least_float32(x)).astype(x.dtype)


@checked
def quick_gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Return x sigmoid(1.702 x), an approximation of `gelu` up to 0.021 away from it (Hendrycks & Gimpel 2016)."""
    wide = at_least_float32(x)
    return (wide * jax.nn.sigmoid(1.702 * wide)).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": silu,
    "tanh": tanh,
}


@checked
def activation_function(name: str) -> Callable[[Array], Array]:
    """The activation of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name}")
    return ACTIVATIONS[name]
