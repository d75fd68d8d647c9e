"""Dequantisation of tensors in GGUF files, to float32 by the package gguf; some rows at a time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from attention_bridge.checkpoints.dtypes import read_at
from attention_bridge.checkpoints.gguf_types import QUANTISED, Blocks
from attention_bridge.errors import CheckpointError, require
from attention_bridge.weights.leaves import Spec

BLOCK = 2**19  # dequantised values at a time, which fit in a cache


def check_blocks(path: Path, name: str, shape: tuple[int, ...], kind: Blocks) -> None:
    """Check that the rows of a quantised tensor are whole blocks.

    Raises:
        CheckpointError: they are not.
    """
    columns = shape[-1] if shape else 1
    if columns % kind.values:
        raise CheckpointError(
            f"{path} is damaged: {name} is {kind.name}, whose rows hold a multiple of {kind.values} values, "
            f"and has rows of {columns}"
        )


def check_dequantised(path: Path, name: str, kind: int) -> None:
    """Check that the installed package gguf dequantises a type.

    Args:
        path: the file, for messages.
        name: name of a tensor of this type.
        kind: number of the type, one of `QUANTISED`.

    Raises:
        CheckpointError: it does not.
        InputError: the package is not installed.
    """
    require(("gguf",), extra="gguf")
    try:
        _dequantised(np.zeros((1, QUANTISED[kind].nbytes), np.uint8), kind)
    except (NotImplementedError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {name} is {QUANTISED[kind].name}, which the installed package gguf cannot "
            "dequantise; a file of another type, such as Q8_0, can be read"
        ) from error


def read_dequantised(path: Path, start: int, spec: Spec, kind: int) -> np.ndarray:
    """Read a quantised tensor, and dequantise it.

    Args:
        path: the file.
        start: offset of the tensor, in bytes.
        spec: shape of the tensor; its dtype is float32.
        kind: number of the type, one of `QUANTISED`.

    Raises:
        CheckpointError: the file ends before the tensor does.
    """
    array = np.empty(spec.shape, spec.dtype)
    columns = spec.shape[-1]
    rows = math.prod(spec.shape[:-1])
    flat, width = array.reshape(rows, columns), columns // QUANTISED[kind].values * QUANTISED[kind].nbytes
    step = max(1, BLOCK // max(1, columns))
    for first in range(0, rows if columns else 0, step):
        count = min(step, rows - first)
        stored = read_at(path, start + first * width, Spec((count, width), np.dtype(np.uint8)))
        flat[first : first + count] = _dequantised(stored, kind)
    return array


def _dequantised(stored: np.ndarray, kind: int) -> np.ndarray:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):  # any bits are a value, as in files that are not quantised
        return dequantize(stored, GGMLQuantizationType(kind))
