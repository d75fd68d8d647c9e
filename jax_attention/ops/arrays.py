"""Array operations that differ between the frameworks, and queries about values and sizes in traced code."""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.arrays import _INCONCLUSIVE


def known_values(x: Array) -> np.ndarray | None:
    """Values of `x` as a NumPy array; None in compiled or mapped code, where `x` is a placeholder."""
    return None if isinstance(x, jax.core.Tracer) else np.asarray(x)


def values_at_hand(x: Array) -> np.ndarray | None:
    """Values of `x` if they are known and in CPU memory, where reading them is cheap; else None."""
    if isinstance(x, jax.core.Tracer) or any(each.platform != "cpu" for each in x.devices()):
        return None
    return np.asarray(x) if x.is_fully_addressable else None


def known_finite(x: Array) -> bool:
    """Whether `x` is known to hold neither NaN nor inf; always False, because checking would wait for the device."""
    return False


def is_static(size: int) -> bool:
    """Whether a size is a number; False for a symbolic size, with which one compiled program serves all sizes."""
    return isinstance(size, int)


def known_above(count: int, most: int) -> bool:
    """Whether a size is known to be above `most`; False for symbolic sizes."""
    return not known_at_most(count, most)


def proven_at_most(size: int, most: int) -> bool:
    """Whether a size is at most `most`; False for a symbolic size without such a constraint."""
    try:
        return bool(size <= most)
    except _INCONCLUSIVE:
        return False


def known_at_most(count: int, most: int) -> bool:
    """Whether a product of sizes is at most `most`; True for symbolic sizes."""
    try:
        return bool(count <= most)
    except _INCONCLUSIVE:
        return True


def write_slots(
    x: Shaped[Array, "*batch slots dim"], new: Shaped[Array, "*batch new dim"], start: Int[Array, ""]
) -> Shaped[Array, "*batch slots dim"]:
    """Write `new` into the slots of `x` from `start` on; beyond the end, into the last slots."""
    return lax.dynamic_update_slice_in_dim(x, new, start, axis=-2)


def sum_by_slot(
    x: Float[Array, "... query key"], slot: Int[Array, "... query key"], count: int
) -> Float[Array, "... query slots"]:
    """Sum `x` over the keys of each slot, for each query; `slot` is broadcast against `x`."""
    rows = prod(x.shape[:-1])
    flat, slots = (y.reshape(rows, x.shape[-1]) for y in (x, jnp.broadcast_to(slot, x.shape)))
    sums = jax.vmap(lambda row, to: jnp.zeros(count, x.dtype).at[to].add(row))(flat, slots)
    return sums.reshape(*x.shape[:-1], count)


def scan(
    step: Callable[[Any, tuple[Array, ...]], tuple[Any, Any]],
    state: Any,
    inputs: tuple[Array, ...],
    *,
    length: int | None = None,
) -> tuple[Any, Any]:
    """Run `step` along the first axis of the inputs.

    Args:
        step: function from a state and one element of each input to the next state, of the same shapes, and an
            output, which is an array or a tuple of arrays.
        state: initial state, an array or a tuple of arrays.
        inputs: arrays whose first axes have the same size.
        length: length of the sequence, if the inputs are chunks of it; None if each input is one token. Only PyTorch's
            compiler needs it.

    Returns:
        The last state, and the outputs stacked along a new first axis.
    """
    return jax.lax.scan(step, state, inputs)


@checked
def solve_unit_lower(
    lower: Float[Array, "*batch length length"], right: Float[Array, "*batch length dim"]
) -> Float[Array, "*batch length dim"]:
    """Solve (I + L) X = B for a strictly lower triangular L.

    Args:
        lower: matrix L; its diagonal and upper triangle are not read.
        right: right-hand side B.
    """
    # Only matrix products: LAPACK's substitution on many small systems at once can deadlock with few XLA threads.
    length = lower.shape[-1]
    if not isinstance(length, int):  # a symbolic length has no known next power of 2
        return _substitute(lower, right)
    size = 1 << (length - 1).bit_length()  # the next power of 2
    widths = [(0, 0)] * (lower.ndim - 2) + [(0, size - length)] * 2
    inverse = _inverse(jnp.pad(lower, widths).reshape(-1, size, size)).reshape(*lower.shape[:-2], size, size)
    return inverse[..., :length, :length] @ right


def _inverse(lower: Float[Array, "many length length"]) -> Float[Array, "many length length"]:
    """Compute (I + L)^-1 by halves: the inverse of [[A, 0], [B, C]] is [[A', 0], [-C' B A', C']]."""
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
    """Compute (I + L)^-1 B by forward substitution, row by row."""
    lower, axis = jnp.tril(lower, -1), right.ndim - 2

    def step(solved: Array, i: Array) -> tuple[Array, None]:
        known = lax.dynamic_index_in_dim(lower, i, axis) @ solved  # *batch 1 dim
        row = lax.dynamic_index_in_dim(solved, i, axis) - known
        return lax.dynamic_update_slice_in_dim(solved, row, i, axis), None

    return lax.scan(step, right, jnp.arange(lower.shape[-1]))[0]
