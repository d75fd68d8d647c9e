"""Arrays and numbers as this framework knows them: what a check may ask of an argument."""

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

ARRAYS: tuple[type[Any], ...] = (Tensor,)
INTEGERS = (Integral, torch.SymInt)
REALS = (Real, torch.SymFloat)


def check_array(name: str, x: Any) -> None:
    """Raise TypeError unless `x` is an array of this framework."""
    if not isinstance(x, ARRAYS):
        kind = f"{type(x).__module__.split('.')[0]}.{type(x).__name__}"
        raise TypeError(f"{name} must be a torch.Tensor, got {kind}; convert it, as torch.from_numpy does")


def as_array(x: Tensor) -> Tensor:
    """An array that `check_array` accepts, as this framework's own."""
    return x


def is_floating(x: Tensor) -> bool:
    """Whether an array holds floating-point numbers."""
    return x.dtype.is_floating_point


def is_integer(x: Tensor) -> bool:
    """Whether an array holds integers."""
    return not (x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool)


def with_rank(x: Tensor, rank: int) -> Tensor:
    """`x` with axes of size 1 in front until it has that many axes, to meet a larger array."""
    return x[(None,) * (rank - x.ndim)]


def larger(size: int, other: int) -> int:
    """The larger of two sizes, which may be symbolic."""
    return torch.sym_max(size, other)


def smaller(size: int, other: int) -> int:
    """The smaller of two sizes, which may be symbolic."""
    return torch.sym_min(size, other)


def log_size(size: int) -> float:
    """The logarithm of a size, which may be symbolic; 0 for an empty axis."""
    return math.log(torch.sym_max(size, 1))


def value_above(size: int, most: int, value: int) -> Any:
    """`value` where a size is above `most`, else 0; an array where the size is known at run time alone."""
    return value if size > most else 0
