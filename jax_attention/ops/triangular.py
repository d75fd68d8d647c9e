"""Systems of equations in which each unknown depends on those before it."""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jax_attention.arguments import checked


@checked
def solve_unit_lower(
    lower: Float[Array, "*batch length length"], right: Float[Array, "*batch length dim"]
) -> Float[Array, "*batch length dim"]:
    """Solve (I + L) X = B.

    Args:
        lower: L; what stands on its diagonal and above is not read.
        right: B.
    """
    # Matrix products alone: LAPACK's substitution, called for many small systems at once, may wait for itself for
    # ever where XLA has few threads.
    length = lower.shape[-1]
    if not isinstance(length, int):  # no power of 2 is next to a symbolic length
        return _substitute(lower, right)
    size = 1 << (length - 1).bit_length()  # the next power of 2
    widths = [(0, 0)] * (lower.ndim - 2) + [(0, size - length)] * 2
    inverse = _inverse(jnp.pad(lower, widths).reshape(-1, size, size)).reshape(*lower.shape[:-2], size, size)
    return inverse[..., :length, :length] @ right


def _inverse(lower: Float[Array, "many length length"]) -> Float[Array, "many length length"]:
    """(I + L)^-1 by halves: that of [[A, 0], [B, C]] is [[A', 0], [-C' B A', C']]."""
    half = lower.shape[-1] // 2
    if half == 0:
        return jnp.ones_like(lower)
    halves = jnp.concatenate([lower[:, :half, :half], lower[:, half:, half:]])
    first, second = jnp.split(_inverse(halves), 2)
    corner = -second @ lower[:, half:, :half] @ first
    return jnp.block([[first, jnp.zeros_like(first)], [corner, second]])


def _substitute(
    lower: Float[Array, "*batch length length"], right: Float[Array, "*batch length dim"]
) -> Float[Array, "*batch length dim"]:
    """(I + L)^-1 B row by row."""
    lower, axis = jnp.tril(lower, -1), right.ndim - 2

    def step(solved: Array, i: Array) -> tuple[Array, None]:
        known = lax.dynamic_index_in_dim(lower, i, axis) @ solved  # *batch 1 dim
        row = lax.dynamic_index_in_dim(solved, i, axis) - known
        return lax.dynamic_update_slice_in_dim(solved, row, i, axis), None

    return lax.scan(step, right, jnp.arange(lower.shape[-1]))[0]
