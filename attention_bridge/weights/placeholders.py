"""Ghost arrays: placeholders with a shape and a dtype but no storage, for planning a conversion.

All elements of a ghost share one element in memory (zero strides), so transposing, reshaping and stacking ghosts is
free. Converting ghosts gives the shape and dtype of every result before any tensor is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def ghost(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array of this shape and dtype without storage."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def is_ghost(array: np.ndarray) -> bool:
    """Whether all elements of an array share one element in memory."""
    return not any(array.strides)


def stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """`np.stack` along a new first axis; the result of ghosts is a ghost."""
    return _joined(arrays, np.stack, (len(arrays), *arrays[0].shape))


def concatenated(arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """`np.concatenate`; the result of ghosts is a ghost."""
    shape = list(arrays[0].shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    return _joined(arrays, lambda given: np.concatenate(given, axis=axis), tuple(shape))


def _joined(
    arrays: Sequence[np.ndarray], join: Callable[[Sequence[np.ndarray]], np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    if all(array.size and is_ghost(array) for array in arrays):
        values = [array[(0,) * array.ndim] for array in arrays]
        if len({value.tobytes() for value in values}) == 1:
            return np.broadcast_to(values[0], shape)
    return join(arrays)
