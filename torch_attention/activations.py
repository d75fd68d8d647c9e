"""Activation functions, evaluated in at least float32 where precision matters."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.ops import at_least_float32


@checked
def relu(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """max(x, 0)."""
    return torch.clamp(x, min=0)


@checked
def relu_squared(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Squared ReLU: max(x, 0)^2 (So et al. 2021)."""
    return torch.relu(x).square()


@checked
def gelu(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Exact GELU: x Phi(x), where Phi is the normal distribution function, by erf (Hendrycks & Gimpel 2016)."""
    return F.gelu(x, approximate="none")


@checked
def gelu_tanh(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The tanh approximation of `gelu`, with an error of up to 5e-4."""
    return F.gelu(x, approximate="tanh")


@checked
def sigmoid(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


@checked
def silu(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """SiLU, also called swish: x sigmoid(x) (Hendrycks & Gimpel 2016)."""
    return F.silu(x)


@checked
def tanh(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The hyperbolic tangent."""
    return torch.tanh(x)


@checked
def softplus(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """log(1 + exp(x)), without the threshold above which `torch.nn.Softplus` returns x."""
    return torch.logaddexp(x, torch.zeros_like(x))


@checked
def quick_gelu(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Quick GELU: x sigmoid(1.702 x), within 0.021 of `gelu` (Hendrycks & Gimpel 2016)."""
    wide = at_least_float32(x)
    return (wide * torch.sigmoid(1.702 * wide)).to(x.dtype)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "relu_squared": relu_squared,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": silu,
    "tanh": tanh,
}


@checked
def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """Look up an activation function by name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name}")
    return ACTIVATIONS[name]
