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


def as_integers(x: Array) -> Array:
    """An array of integers in the dtype of positions."""
    return jnp.asarray(x).astype(jnp.arange(0).dtype)


def is_floating(x: Array) -> bool:
    """Whether an array holds floating-point numbers."""
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def is_integer(x: Array) -> bool:
    """Whether an array holds integers."""
    return bool(jnp.issubdtype(x.dtype, jnp.integer))
