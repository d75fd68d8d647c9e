"""Square roots whose gradient at zero is zero instead of infinite."""

import torch
from jaxtyping import Float
from torch import Tensor

from torch_attention.ops import at_least_float32


def root(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Square root of numbers of at least 0, with the gradient 0 at 0."""
    positive = x > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, x, 1.0)), 0.0)


def root_mean_square(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch one"]:
    """Root mean square of the last axis, in at least float32."""
    wide = at_least_float32(x)
    return root((wide * wide).mean(dim=-1, keepdim=True))
