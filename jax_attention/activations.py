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
def relu_squared(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Squared ReLU: max(x, 0)^2 (So et al. 2021)."""
    return jnp.square(jax.nn.relu(x))


@checked
def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Exact GELU: x Phi(x), where Phi is the normal distribution function, by erf (Hendrycks & Gimpel 2016)."""
    return jax.nn.gelu(at_least_float32(x), approximate=False).astype(x.dtype)


@checked
def gelu_tanh(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The tanh approximation of `gelu`, with an error of up to 5e-4."""
    return jax.nn.gelu(at_least_float32(x), approximate=True).astype(x.dtype)


@checked
def sigmoid(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(at_least_float32(x)).astype(x.dtype)


@checked
def silu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """SiLU, also called swish: x sigmoid(x) (Hendrycks & Gimpel 2016)."""
    return jax.nn.silu(at_least_float32(x)).astype(x.dtype)


@checked
def tanh(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The hyperbolic tangent."""
    return jnp.tanh(x)


@checked
def softplus(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """log(1 + exp(x)), without the threshold above which `torch.nn.Softplus` returns x."""
    return jax.nn.softplus(at_least_float32(x)).astype(x.dtype)


@checked
def quick_gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Quick GELU: x sigmoid(1.702 x), within 0.021 of `gelu` (Hendrycks & Gimpel 2016)."""
    wide = at_least_float32(x)
    return (wide * jax.nn.sigmoid(1.702 * wide)).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": relu,
    "relu_squared": relu_squared,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": silu,
    "tanh": tanh,
}


@checked
def activation_function(name: str) -> Callable[[Array], Array]:
    """Look up an activation function by name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name}")
    return ACTIVATIONS[name]
