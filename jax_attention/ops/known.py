"""What an array holds, where that can be known."""

import jax
import numpy as np
from jax import Array

from jax_attention.arrays import _INCONCLUSIVE


def known_values(x: Array) -> np.ndarray | None:
    """The values of `x`; None while code is compiled or mapped, when an array stands for others yet to come."""
    return None if isinstance(x, jax.core.Tracer) else np.asarray(x)


def known_finite(x: Array) -> bool:
    """Whether `x` is known to hold neither NaN nor inf; False, since a look would wait for the device."""
    return False


def is_static(size: int) -> bool:
    """Whether a size is a number; False for a symbol, by which a compiler makes one program for all sizes."""
    return isinstance(size, int)


def known_above(count: int, most: int) -> bool:
    """Whether a size is known to be above `most`; False for symbolic sizes, of which this cannot be known."""
    return not known_at_most(count, most)


def proven_at_most(size: int, most: int) -> bool:
    """Whether a size is at most `most`; False for a symbolic size without such a constraint."""
    try:
        return bool(size <= most)
    except _INCONCLUSIVE:
        return False


def known_at_most(count: int, most: int) -> bool:
    """Whether a product of sizes is at most `most`; True for symbolic sizes, of which this cannot be known."""
    try:
        return bool(count <= most)
    except _INCONCLUSIVE:
        return True
