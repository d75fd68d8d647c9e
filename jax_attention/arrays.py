"""Arrays and numbers as this framework knows them: what a check may ask of an argument."""

from numbers import Integral, Real
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

ARRAYS: tuple[type[Any], ...] = (Array, np.ndarray)
INTEGERS = (Integral,)
REALS = (Real,)


def check_array(name: str, x: Any) -> None:
    """Raise TypeError unless `x` is an array of this framework."""
    if not isinstance(x, ARRAYS):
        kind = f"{type(x).__module__.split('.')[0]}.{type(x).__name__}"
        raise TypeError(f"{name} must be a jax.Array, got {kind}; convert it, as jnp.asarray does")


def as_array(x: Array) -> Array:
    """An array that `check_array` accepts, as this framework's own."""
    return jnp.asarray(x)


def einsum(equation: str, *operands: Array) -> Array:
    """`jnp.einsum` in the precision of the operands."""
    return jnp.einsum(equation, *operands)


def matmul(x: Array, y: Array) -> Array:
    """`x @ y` in the precision of the operands."""
    return x @ y


def take_along(x: Array, index: Array, axis: int) -> Array:
    """The elements of `x` at `index` along one axis; the other axes broadcast."""
    return jnp.take_along_axis(x, index, axis)


def is_floating(x: Array) -> bool:
    """Whether an array holds floating-point numbers."""
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def is_integer(x: Array) -> bool:
    """Whether an array holds integers."""
    return bool(jnp.issubdtype(x.dtype, jnp.integer))


def with_rank(x: Array, rank: int) -> Array:
    """`x` with axes of size 1 in front until it has that many axes, to meet a larger array."""
    return x[(None,) * (rank - x.ndim)]
