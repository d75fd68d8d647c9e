"""Systems of equations in which each unknown depends on those before it."""

import torch
from jaxtyping import Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.ops.scan import scan


@checked
def solve_unit_lower(
    lower: Float[Tensor, "*batch length length"], right: Float[Tensor, "*batch length dim"]
) -> Float[Tensor, "*batch length dim"]:
    """Solve (I + L) X = B.

    Args:
        lower: L; what stands on its diagonal and above is not read.
        right: B.
    """
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():  # ONNX has no such operator
        return _substitute(lower, right)
    return torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)


def _substitute(
    lower: Float[Tensor, "*batch length length"], right: Float[Tensor, "*batch length dim"]
) -> Float[Tensor, "*batch length dim"]:
    """(I + L)^-1 B row by row."""
    rows = torch.tril(lower, -1).movedim(-2, 0)  # length *batch length
    own = torch.eye(lower.shape[-1], dtype=torch.bool, device=lower.device)  # length length

    def step(solved: Tensor, row: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        known = row[0][..., None, :] @ solved  # *batch 1 dim
        return torch.where(row[1][:, None], solved - known, solved), known

    return scan(step, right, (rows, own))[0]
