"""What may stand for an array."""

from typing import Any

import numpy as np
from torch import Tensor


def check_array(name: str, x: Any) -> None:
    """Raise TypeError unless `x` is an array of this framework, or one that it takes for its own."""
    if isinstance(x, Tensor):
        return
    if isinstance(x, np.ndarray):
        raise TypeError(f"{name} must be a PyTorch tensor, got a numpy array; use torch.from_numpy")
    raise TypeError(f"{name} must be an array, got {_kind(x)}")


def check_floats(name: str, x: Any) -> None:
    """Raise TypeError unless `x` is an array of floating-point numbers."""
    check_array(name, x)
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating-point, got {str(x.dtype).removeprefix('torch.')}")


def _kind(x: Any) -> str:
    plain = x is None or isinstance(x, bool | int | float | str)
    return repr(x) if plain else type(x).__name__
