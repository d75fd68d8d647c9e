"""What may stand for an array."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array


def check_array(name: str, x: Any) -> None:
    """Raise TypeError unless `x` is an array of this framework, or one that it takes for its own."""
    if isinstance(x, Array | np.ndarray) or hasattr(x, "__jax_array__"):
        return
    raise TypeError(f"{name} must be an array, got {_kind(x)}")


def check_floats(name: str, x: Any) -> None:
    """Raise TypeError unless `x` is an array of floating-point numbers."""
    check_array(name, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating-point, got {x.dtype}")


def _kind(x: Any) -> str:
    plain = x is None or isinstance(x, bool | int | float | str)
    return repr(x) if plain else type(x).__name__
