"""Systems of equations in which each unknown depends on those before it."""

from jax import Array
from jax.scipy.linalg import solve_triangular
from jaxtyping import Float


def solve_unit_lower(
    lower: Float[Array, "*batch length length"], right: Float[Array, "*batch length dim"]
) -> Float[Array, "*batch length dim"]:
    """Solve (I + L) X = B, by substitution from the first row on.

    Args:
        lower: L; what stands on its diagonal and above is not read.
        right: B.
    """
    return solve_triangular(lower, right, lower=True, unit_diagonal=True)
