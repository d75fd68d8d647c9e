"""Arrays and numbers as this framework knows them: what a check may ask of an argument."""

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

ARRAYS: tuple[type[Any], ...] = (Tensor,)
INTEGERS = (Integral, torch.SymInt)
REALS = (Real, torch.SymFloat)


def check_array(name: str, x: Any) -> None:
    """Raise TypeError unless `x` is an array of this framework."""
    if not isinstance(x, ARRAYS):
        if isinstance(x, np.generic) or not hasattr(x, "__array__"):
            raise TypeError(f"{name} must be an array, got {type(x).__name__}")
        kind = f"{type(x).__module__.split('.')[0]}.{type(x).__name__}"
        raise TypeError(f"{name} must be a torch.Tensor, got {kind}; convert it, as torch.from_numpy does")


def as_array(x: Tensor) -> Tensor:
    """An array that `check_array` accepts, as this framework's own."""
    return x


def as_integers(x: Tensor) -> Tensor:
    """An array of integers in the dtype of positions."""
    return x.to(torch.int64)


def is_floating(x: Tensor) -> bool:
    """Whether an array holds floating-point numbers."""
    return x.dtype.is_floating_point


def is_integer(x: Tensor) -> bool:
    """Whether an array holds integers."""
    return not (x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool)


def is_size(x: Any) -> bool:
    """Whether `x` is an integer, or a size that is not known while code is traced."""
    return isinstance(x, INTEGERS) and not isinstance(x, bool)


def check_dtype(name: str, given: Any) -> Any:
    """The dtype of parameters that was given; TypeError unless it is floating point."""
    if not isinstance(given, torch.dtype) or not given.is_floating_point:
        raise TypeError(f"{name} must be a floating-point dtype, got {given!r}")
    return given
