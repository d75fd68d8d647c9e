"""Array and dtype helpers that hide the differences between the frameworks."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_T = TypeVar("_T")


ARRAYS: tuple[type[Any], ...] = (Array, np.ndarray)
INTEGERS = (Integral,)
REALS = (Real,)
# Raised when symbolic sizes cannot be compared. Older versions of JAX have it in `jax.core`, where newer ones warn.
_INCONCLUSIVE: type[Exception] = (
    getattr(jax.errors, "InconclusiveDimensionOperation", None) or jax.core.InconclusiveDimensionOperation
)
_NARROW = ("int8", "int16", "uint8", "uint16", "uint32")


def check_array(name: str, x: Any) -> None:
    """Raise TypeError unless `x` is an array of this framework."""
    if not isinstance(x, ARRAYS):
        if isinstance(x, np.generic) or not hasattr(x, "__array__"):
            raise TypeError(f"{name} must be an array, got {type(x).__name__}")
        kind = f"{type(x).__module__.split('.')[0]}.{type(x).__name__}"
        raise TypeError(f"{name} must be a jax.Array, got {kind}; convert it, as jnp.asarray does")
    if isinstance(x, np.ndarray) and x.dtype.kind in "OSUMm":
        raise TypeError(f"{name} must hold numbers, got dtype {x.dtype}")


def as_array(x: Array) -> Array:
    """Convert an array that `check_array` accepts to an array of this framework."""
    return x if isinstance(x, Array) else jnp.asarray(x)


def as_indices(x: Array) -> Array:
    """Convert integers to a dtype that embedding tables accept as indices."""
    x = as_array(x)
    return x.astype(jnp.int32) if x.dtype.name in _NARROW else x


def as_integers(x: Array) -> Array:
    """Convert integers to the dtype of positions."""
    kind = jnp.arange(0).dtype
    if (
        isinstance(x, np.ndarray)
        and x.size
        and not jnp.iinfo(kind).min <= x.min() <= x.max() <= jnp.iinfo(kind).max
    ):
        raise ValueError(f"integers must fit in {kind} without jax_enable_x64, got {x.min()} to {x.max()}")
    return jnp.asarray(x).astype(kind)


def as_integers_within(x: Array, most: int) -> Array:
    """Convert integers to the dtype of positions, clipped to [-most, most]."""
    span = jnp.iinfo(x.dtype)
    return as_integers(x if span.max < most else x.clip(max(-most, int(span.min)), most))


def einsum(equation: str, *operands: Array) -> Array:
    """Einsum in the precision of the arrays, with autocast disabled."""
    return jnp.einsum(equation, *operands)


def matmul(x: Array, y: Array) -> Array:
    """`x @ y` in the precision of the arrays, with autocast disabled."""
    return x @ y


def take_along(x: Array, index: Array, axis: int) -> Array:
    """Take the elements of `x` at `index` along one axis; the other axes broadcast."""
    return jnp.take_along_axis(x, index, axis)


def first(x: Array, size: int, axis: int) -> Array:
    """Take the first `size` elements along an axis; the size may be symbolic."""
    return jax.lax.slice_in_dim(x, 0, size, axis=axis)


def stable_order(x: Array) -> Array:
    """Stable argsort along the last axis, ascending."""
    return jnp.argsort(x, axis=-1, stable=True)


def is_floating(x: Array) -> bool:
    """Whether an array holds floating-point numbers."""
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def is_integer(x: Array) -> bool:
    """Whether an array holds integers."""
    return bool(jnp.issubdtype(x.dtype, jnp.integer))


def is_size(x: Any) -> bool:
    """Whether `x` is an integer or a symbolic size."""
    return (isinstance(x, INTEGERS) and not isinstance(x, bool)) or hasattr(x, "dimension_as_value")


def check_dtype(name: str, given: Any) -> Any:
    """Return a parameter dtype; TypeError unless it is a floating-point dtype of at least 16 bits."""
    try:
        floating = given is not None and jnp.issubdtype(jnp.dtype(given), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise TypeError(f"{name} must be a floating-point dtype, got {given!r}")
    if jnp.dtype(given).itemsize < 2:
        raise TypeError(f"{name} must have at least 16 bits, got {jnp.dtype(given)}")
    return given


def check_promotion(module: Any, name: str, x: Any) -> None:
    """Raise ValueError if no linear layer of a module accepts the dtype of `x`.

    Flax's layers promote an array and their parameters to a common dtype. PyTorch's layers do not, except under
    autocast, with hooks, or in subclasses that convert.
    """


def with_rank(x: Array, rank: int) -> Array:
    """Prepend axes of size 1 to `x` until it has `rank` axes."""
    return x[(None,) * (rank - x.ndim)]


def larger(size: int, other: int) -> int:
    """The larger of two sizes, which may be symbolic."""
    return jax.core.max_dim(size, other)


def smaller(size: int, other: int) -> int:
    """The smaller of two sizes, which may be symbolic."""
    return jax.core.min_dim(size, other)


def log_size(size: int) -> Any:
    """The logarithm of a size, which may be symbolic; 0 for an empty axis."""
    return math.log(max(size, 1)) if isinstance(size, int) else jnp.log(jnp.asarray(size, dtype=jnp.float32))


def value_above(size: int, most: int, value: int) -> Any:
    """`value` if a size is above `most`, else 0; an array if the size is known only at run time."""
    try:
        return value if size > most else 0
    except _INCONCLUSIVE:
        return jnp.where(jnp.asarray(size) > most, value, 0)


@dataclass_transform(frozen_default=True)
def record(*, static: tuple[str, ...] = ()) -> Callable[[type[_T]], type[_T]]:
    """Make a class a frozen dataclass that compiled functions can take and return.

    Args:
        static: names of fields without arrays; compiled code is specialised on their values.
    """

    def decorate(cls: type[_T]) -> type[_T]:
        made = dataclass(frozen=True)(cls)
        arrays = [name for name in cls.__annotations__ if name not in static]
        return jax.tree_util.register_dataclass(made, data_fields=arrays, meta_fields=list(static))

    return decorate
