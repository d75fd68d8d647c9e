"""GGUF files of llama.cpp without quantised tensors; read-only.

This reader checks every length in the header against the file size. The reader of the package gguf does not: with it
a file of 50 bytes can exhaust the memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from attention_bridge.checkpoints.dtypes import read_at
from attention_bridge.checkpoints.faults import nbytes, reading
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.checkpoints.write_checks import Items
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_AXES = 4
STRING, ARRAY = 8, 9
SCALARS = {
    0: "u1",
    1: "i1",
    2: "u2",
    3: "i2",
    4: "u4",
    5: "i4",
    6: "f4",
    7: "?",
    10: "u8",
    11: "i8",
    12: "f8",
}
DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    24: np.dtype(np.int8),
    25: np.dtype(np.int16),
    26: np.dtype(np.int32),
    27: np.dtype(np.int64),
    28: np.dtype(np.float64),
    30: np.dtype(ml_dtypes.bfloat16),
}
QUANTISED = {
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}


class _Cursor:
    """Sequential reader of a file that checks each length against the file size."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file, self.size = path, file, path.stat().st_size

    def take(self, count: int) -> bytes:
        if self.file.tell() + count > self.size:
            raise CheckpointError(f"{self.path} is truncated or damaged: its header continues after its end")
        return self.file.read(count)

    def number(self, kind: str) -> Any:
        return np.frombuffer(self.take(np.dtype(kind).itemsize), f"<{kind}")[0].item()

    def text(self) -> str:
        return self.take(self.number("u8")).decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind != ARRAY:
            raise CheckpointError(f"{self.path} is damaged: it has metadata of the unknown type {kind}")
        inner, length = self.number("u4"), self.number("u8")
        if inner in SCALARS:
            dtype = np.dtype(f"<{SCALARS[inner]}")
            return np.frombuffer(self.take(length * dtype.itemsize), dtype)
        return [self.value(inner) for _ in range(length)]


def open(path: Path) -> Reader:
    """Open a GGUF file. Tensors are read one at a time, with axes in numpy's order.

    Raises:
        CheckpointError: the file is truncated or damaged, or a tensor is quantised.
    """
    with reading(path, "GGUF file"), path.open("rb") as file:
        cursor = _Cursor(path, file)
        if cursor.take(4) != MAGIC:
            raise CheckpointError(f"{path} is no GGUF file: it does not begin with GGUF")
        if (version := cursor.number("u4")) not in VERSIONS:
            raise CheckpointError(
                f"{path} cannot be read: only little-endian GGUF 2 or 3 is supported, but it has version {version}"
            )
        tensors, entries = cursor.number("u8"), cursor.number("u8")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            _add(path, metadata, cursor.text(), cursor.value(cursor.number("u4")))
        starts: dict[str, int] = {}
        specs: dict[str, Spec] = {}
        for _ in range(tensors):
            name = cursor.text()
            _add(path, specs, name, _spec(path, name, cursor))
            starts[name] = cursor.number("u8")
        _place(path, file.tell(), metadata.get("general.alignment", 32), starts, specs, cursor.size)

    def fetch(name: str) -> np.ndarray:
        return read_at(path, starts[name], specs[name])

    return Reader(path, "gguf", specs, metadata, fetch)


def _add(path: Path, known: dict[str, Any], name: str, value: Any) -> None:
    if name in known:
        raise CheckpointError(f"{path} is damaged: it has {name} twice")
    known[name] = value


def _spec(path: Path, name: str, cursor: _Cursor) -> Spec:
    axes = cursor.number("u4")
    if axes > MOST_AXES:
        raise CheckpointError(f"{path} is damaged: {name} has {axes} axes, and GGUF allows {MOST_AXES}")
    shape = struct.unpack(f"<{axes}Q", cursor.take(8 * axes))[::-1]
    kind = cursor.number("u4")
    if kind not in DTYPES:
        called = QUANTISED.get(kind, f"of the unknown type {kind}")
        raise CheckpointError(
            f"{path} cannot be read: {name} is {called}, and only tensors that are not quantised are"
        )
    return Spec(shape, DTYPES[kind])


def _place(
    path: Path, end: int, alignment: Any, starts: dict[str, int], specs: Mapping[str, Spec], size: int
) -> None:
    """Make the tensors' offsets relative to the beginning of the file, and check that tensors fill it without gaps.

    A gap means that the header lists too few tensors or wrong offsets.
    """
    if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
        raise CheckpointError(f"{path} is damaged: its alignment is {alignment}, not a multiple of 8")
    first = -(-end // alignment) * alignment
    free = first
    for name in sorted(starts, key=lambda name: (starts[name], nbytes(specs[name]))):
        starts[name] += first
        if starts[name] != -(-free // alignment) * alignment:
            raise CheckpointError(
                f"{path} is damaged: {name} begins at {starts[name]}, but the tensor before it ends at {free}"
            )
        free = starts[name] + nbytes(specs[name])
        if free > size:
            raise CheckpointError(
                f"{path} is truncated or damaged: it has {size} bytes, and {name} ends at {free}"
            )
    if size > -(-free // alignment) * alignment:
        raise CheckpointError(
            f"{path} is damaged: it has {size} bytes, and the last tensor that it lists ends at {free}"
        )


def write(path: Path, items: Items, specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> None:
    """Raise an error: GGUF files are only read.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(f"{path} cannot be written: GGUF files are only read")
