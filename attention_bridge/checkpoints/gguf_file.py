"""GGUF files of llama.cpp; read-only. Quantised tensors are dequantised to float32 by the package gguf.

This reader checks every length in the header against the file size. The reader of the package gguf does not: with it
a file of 50 bytes can exhaust the memory.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from attention_bridge.checkpoints.dtypes import read_at
from attention_bridge.checkpoints.faults import nbytes, reading
from attention_bridge.checkpoints.gguf_blocks import check_blocks, check_dequantised, read_dequantised
from attention_bridge.checkpoints.gguf_types import DTYPES, QUANTISED
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.checkpoints.write_checks import Items
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_AXES = 4
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")
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


class _Tensor(NamedTuple):
    """A tensor of a file: shape and dtype of its values, the number of its type, and its size in the file."""

    spec: Spec
    kind: int
    nbytes: int


class _Cursor:
    """Sequential reader of a file that checks each length against the file size."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file, self.size, self.at = path, file, path.stat().st_size, 0

    def take(self, count: int) -> bytes:
        if self.at + count > self.size:
            raise CheckpointError(f"{self.path} is truncated or damaged: its header continues after its end")
        self.at += count
        return self.file.read(count)

    def number(self, kind: str) -> Any:
        return np.frombuffer(self.take(np.dtype(kind).itemsize), f"<{kind}")[0].item()

    def text(self) -> str:
        (length,) = LENGTH.unpack(self.take(8))
        return self.take(length).decode()

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
    """Open a GGUF file. Tensors are read one at a time, with axes in numpy's order; quantised ones are float32.

    Raises:
        CheckpointError: the file is truncated or damaged, or the package gguf cannot dequantise a tensor.
        InputError: a tensor is quantised, and the package gguf is not installed.
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
        listed: dict[str, _Tensor] = {}
        for _ in range(tensors):
            name = cursor.text()
            _add(path, listed, name, _tensor(path, name, cursor))
            starts[name] = cursor.number("u8")
        _place(path, cursor.at, metadata.get("general.alignment", 32), starts, listed, cursor.size)
    for kind, name in {
        tensor.kind: name for name, tensor in listed.items() if tensor.kind in QUANTISED
    }.items():
        check_dequantised(path, name, kind)

    def fetch(name: str) -> np.ndarray:
        spec, kind, _ = listed[name]
        if kind in QUANTISED:
            return read_dequantised(path, starts[name], spec, kind)
        return read_at(path, starts[name], spec)

    return Reader(path, "gguf", {name: tensor.spec for name, tensor in listed.items()}, metadata, fetch)


def _add(path: Path, known: dict[str, Any], name: str, value: Any) -> None:
    if name in known:
        raise CheckpointError(f"{path} is damaged: it has {name} twice")
    known[name] = value


def _tensor(path: Path, name: str, cursor: _Cursor) -> _Tensor:
    axes = cursor.number("u4")
    if axes > MOST_AXES:
        raise CheckpointError(f"{path} is damaged: {name} has {axes} axes, and GGUF allows {MOST_AXES}")
    shape = struct.unpack(f"<{axes}Q", cursor.take(8 * axes))[::-1]
    kind = cursor.number("u4")
    if kind in DTYPES:
        spec = Spec(shape, DTYPES[kind])
        return _Tensor(spec, kind, nbytes(spec))
    if kind not in QUANTISED:
        raise CheckpointError(f"{path} cannot be read: {name} is of the unknown type {kind}")
    blocks = QUANTISED[kind]
    check_blocks(path, name, shape, blocks)
    stored = math.prod(shape) // blocks.values * blocks.nbytes
    return _Tensor(Spec(shape, np.dtype(np.float32)), kind, stored)


def _place(
    path: Path, end: int, alignment: Any, starts: dict[str, int], listed: Mapping[str, _Tensor], size: int
) -> None:
    """Make the tensors' offsets relative to the beginning of the file, and check that tensors fill it without gaps.

    A gap means that the header lists too few tensors or wrong offsets.
    """
    if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
        raise CheckpointError(f"{path} is damaged: its alignment is {alignment}, not a multiple of 8")
    first = -(-end // alignment) * alignment
    free = first
    for name in sorted(starts, key=lambda name: (starts[name], listed[name].nbytes)):
        starts[name] += first
        if starts[name] != -(-free // alignment) * alignment:
            raise CheckpointError(
                f"{path} is damaged: {name} begins at {starts[name]}, but the tensor before it ends at {free}"
            )
        free = starts[name] + listed[name].nbytes
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
