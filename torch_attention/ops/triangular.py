"""Systems of equations in which each unknown depends on those before it."""

import torch
from jaxtyping import Float
from torch import Tensor

from torch_attention.arguments import checked


@checked
def solve_unit_lower(
    lower: Float[Tensor, "*batch length length"], right: Float[Tensor, "*batch length dim"]
) -> Float[Tensor, "*batch length dim"]:
    """Solve (I + L) X = B.

    Args:
        lower: L; what stands on its diagonal and above is not read.
        right: B.
    """
    return torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
