"""Supported dtypes of checkpoints, and conversion between arrays and bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec

BLOCK = 2**24  # bytes
TILE = (128, 256)  # rows and columns that fit in a cache together
CACHE_LINE = 64  # bytes

_OWN = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64 complex64 complex128"
_EXTENDED = "bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"
NUMPY = tuple(np.dtype(name) for name in _OWN.split())
EXTENDED = {name: np.dtype(getattr(ml_dtypes, name)) for name in _EXTENDED.split()}
ALL = (*NUMPY, *EXTENDED.values())


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in this machine's byte order."""
    return dtype.newbyteorder("=")


def supported(path: Path, name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a tensor in a file, in native byte order.

    Raises:
        CheckpointError: the dtype is not supported, such as text or objects.
    """
    if native(dtype) not in ALL:
        raise CheckpointError(f"{path} cannot be read: {name} is {dtype}, which is not a dtype of tensors")
    return native(dtype)


def check_writable(
    path: Path, kind: str, specs: Mapping[str, Spec], allowed: Collection[np.dtype[Any]]
) -> None:
    """Check that a format supports the dtypes of all tensors.

    Raises:
        CheckpointError: a tensor has a dtype outside `allowed`.
    """
    for name, spec in specs.items():
        if native(spec.dtype) not in allowed:
            raise CheckpointError(f"{path} cannot be written: {kind} has no {spec.dtype}, as {name} is")


def blocks(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes of an array in C order and native byte order, without a copy of a contiguous array."""
    if not array.dtype.isnative:
        array = array.astype(native(array.dtype))
    if array.flags.c_contiguous:
        yield memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        return
    if array.ndim > 2:
        for part in array:
            yield from blocks(part)
        return
    yield from _rows(array if array.ndim == 2 else array[None])


def _rows(matrix: np.ndarray) -> Iterator[memoryview]:
    """The bytes of a matrix, some rows at a time."""
    count, length = matrix.shape
    step = max(1, min(TILE[0], BLOCK // max(1, length * matrix.itemsize)))
    for first in range(0, count, step):
        rows = matrix[first : first + step]
        dense = np.empty(rows.shape, rows.dtype)
        if rows.strides[1] == rows.itemsize:
            dense[...] = rows
        else:
            _turn(rows, dense)
        yield memoryview(dense.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _turn(rows: np.ndarray, dense: np.ndarray) -> None:
    """Copy a column-major matrix to row-major order, tile by tile, through a buffer.

    The columns are often a power of two apart in memory, so that they compete for the same few cache lines; the
    buffer pads each column by one cache line.
    """
    count, length = rows.shape
    buffer = np.empty((min(length, TILE[1]), count + CACHE_LINE // rows.itemsize), rows.dtype)
    for start in range(0, length, TILE[1]):
        tile = rows[:, start : start + TILE[1]].T
        turned = buffer[: tile.shape[0], :count]
        turned[...] = tile
        dense[:, start : start + TILE[1]] = turned.T


def ahead(parts: Iterable[memoryview]) -> Iterator[memoryview]:
    """Yield the same parts; a thread prepares the next one while the current one is used."""
    steps = iter(parts)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, steps, None)
        while (part := coming.result()) is not None:
            coming = pool.submit(next, steps, None)
            yield part


def read_at(path: Path, start: int, spec: Spec) -> np.ndarray:
    """Read a tensor from a file, without a memory map: a map of a truncated file would crash the process.

    Args:
        path: the file.
        start: offset of the tensor, in bytes.
        spec: shape and dtype of the tensor.

    Raises:
        CheckpointError: the file ends before the tensor does.
    """
    array = np.empty(spec.shape, spec.dtype)
    view = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        filled = 0
        while filled < len(view):
            count = file.readinto(view[filled : filled + BLOCK])
            if not count:
                raise CheckpointError(
                    f"{path} is damaged: it has become shorter: a tensor ends {len(view) - filled} bytes after its end"
                )
            filled += count
    return array
