"""Arrays without memory: a shape and a dtype that go through a conversion as if they were tensors.

All elements of a ghost are one element, so that neither transposing nor reshaping nor stacking it with its likes costs
anything. A conversion of ghosts tells what each tensor will become before any is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def ghost(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array of that shape and dtype which takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def is_ghost(array: np.ndarray) -> bool:
    """Whether all elements of an array are one element."""
    return not any(array.strides)


def stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """`np.stack` along a new first axis; of ghosts, a ghost."""
    return _joined(arrays, np.stack, (len(arrays), *arrays[0].shape))


def concatenated(arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """`np.concatenate`; of ghosts, a ghost."""
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
