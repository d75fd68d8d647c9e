"""Arrays and numbers as this framework knows them: what a check may ask of an argument."""

import math
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ARRAYS: tuple[type[Any], ...] = (Array, np.ndarray)
INTEGERS = (Integral,)
REALS = (Real,)
# Raised where symbolic sizes are compared; older versions of JAX have it in `jax.core`, where newer ones warn of it.
INCONCLUSIVE: type[Exception] = (
    getattr(jax.errors, "InconclusiveDimensionOperation", None) or jax.core.InconclusiveDimensionOperation
)


def check_array(name: str, x: Any) -> None:
    """Raise TypeError unless `x` is an array of this framework."""
    if not isinstance(x, ARRAYS):
        kind = f"{type(x).__module__.split('.')[0]}.{type(x).__name__}"
        raise TypeError(f"{name} must be a jax.Array, got {kind}; convert it, as jnp.asarray does")


def as_array(x: Array) -> Array:
    """An array that `check_array` accepts, as this framework's own."""
    return jnp.asarray(x)


def is_floating(x: Array) -> bool:
    """Whether an array holds floating-point numbers."""
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def is_integer(x: Array) -> bool:
    """Whether an array holds integers."""
    return bool(jnp.issubdtype(x.dtype, jnp.integer))


def with_rank(x: Array, rank: int) -> Array:
    """`x` with axes of size 1 in front until it has that many axes, to meet a larger array."""
    return x[(None,) * (rank - x.ndim)]


def larger(size: int, other: int) -> int:
    """The larger of two sizes, which may be symbolic."""
    return jax.core.max_dim(size, other)


def smaller(size: int, other: int) -> int:
    """The smaller of two sizes, which may be symbolic."""
    return jax.core.min_dim(size, other)


def log_size(size: int) -> float:
    """The logarithm of a size, which may be symbolic; 0 for an empty axis."""
    return math.log(max(size, 1)) if isinstance(size, int) else jnp.log(jnp.asarray(size, dtype=jnp.float32))


def value_above(size: int, most: int, value: int) -> Any:
    """`value` where a size is above `most`, else 0; an array where the size is known at run time alone."""
    try:
        return value if size > most else 0
    except INCONCLUSIVE:
        return jnp.where(jnp.asarray(size) > most, value, 0)
