"""Single safetensors files: 8 bytes for the header's length, the header in JSON, the tensors' bytes.

bfloat16 and the 8-bit floats, which the safetensors library does not read for numpy, are read as ml_dtypes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import safe_open

from attention_bridge.checkpoints.dtypes import ahead, blocks, check_writable, native, read_at
from attention_bridge.checkpoints.faults import nbytes, reading, writing
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.checkpoints.write_checks import Items, check_names, promised
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec

LONGEST_HEADER = 100_000_000  # bytes; the library reads no longer ones

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Place(NamedTuple):
    """The offset of a tensor in a file, in bytes, and its shape and dtype."""

    start: int
    spec: Spec


def open(path: Path) -> Reader:
    """Open a safetensors file. Tensors are read one at a time.

    Raises:
        CheckpointError: the file is empty, truncated, damaged or not a safetensors file.
    """
    with reading(path, "safetensors file"):
        places, metadata = _read_header(path)

    def fetch(name: str) -> np.ndarray:
        return read_at(path, *places[name])

    return Reader(path, "safetensors", {name: place.spec for name, place in places.items()}, metadata, fetch)


def _read_header(path: Path) -> tuple[dict[str, Place], dict[str, str]]:
    """The position of each tensor, and the metadata. The safetensors library checks that offsets leave no gaps."""
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(f"{path} is empty")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if 8 + length > size:
            raise CheckpointError(
                f"{path} is truncated or no safetensors file: it has {size} bytes, its header ends at {8 + length}"
            )
        if length > LONGEST_HEADER:
            raise CheckpointError(
                f"{path} is no safetensors file: its header has {length} bytes, more than {LONGEST_HEADER}"
            )
        try:
            with safe_open(path, framework="np"):
                entries = json.loads(file.read(length), object_pairs_hook=partial(_unique, path))
        except (CheckpointError, OSError):
            raise
        except Exception as error:
            if (end := _end(path, length)) > size:
                raise CheckpointError(
                    f"{path} is truncated: it has {size} bytes, and its tensors end at {end}; download or copy it again"
                ) from error
            raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error
    metadata = entries.pop("__metadata__", None) or {}
    places = {name: _place(path, name, entry, 8 + length) for name, entry in entries.items()}
    return places, metadata


def _end(path: Path, length: int) -> int:
    """The size that a file should have by its header; 0 if the header is damaged."""
    with path.open("rb") as file:
        file.seek(8)
        try:
            entries = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
            return 8 + length + int(max(ends, default=0))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
            return 0


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise CheckpointError(f"{path} has a header that gives one name twice")
    return entries


def _place(path: Path, name: str, entry: Mapping[str, Any], start: int) -> Place:
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(f"{path} cannot be read: numpy has no {entry['dtype']}, as {name} is")
    return Place(start + entry["data_offsets"][0], Spec(tuple(entry["shape"]), DTYPES[entry["dtype"]]))


def save_file(tensors: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str] | None) -> None:
    """Write a file of tensors that are all in memory. An existing file of that name is overwritten.

    Raises:
        TypeError: metadata is not text.
    """
    specs = {name: Spec(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    write(path, tensors.items(), specs, metadata or {})


def write(path: Path, items: Items, specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> None:
    """Write a new file, one tensor at a time. An existing file of that name is overwritten.

    Args:
        path: file to write.
        items: pairs of name and array, in any order.
        specs: shape and dtype of each tensor, by name.
        metadata: text to store with the tensors.

    Raises:
        CheckpointError: the tensors differ from `specs`, or the format cannot store them.
        DiskError: the system cannot write.
        TypeError: metadata is not text.
    """
    check(path, specs, metadata)
    with Open(path, *arranged(path, specs, metadata)) as file:
        for name, array in promised(path, items, specs):
            file.put(name, array)


def check(path: Path, specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> None:
    """Check that a safetensors file can store these tensors and this metadata.

    Raises:
        CheckpointError: a name or dtype is not supported.
        TypeError: metadata is not text.
    """
    check_writable(path, "safetensors", specs, NAMES)
    check_names(path, specs)
    if "__metadata__" in specs:
        raise CheckpointError(f"{path} cannot be written: safetensors has no tensor called __metadata__")
    for key, value in metadata.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"metadata is text by name, but {key!r} is {value!r}")


class Open:
    """A file that is being written: the header first, then the tensors in any order."""

    def __init__(self, path: Path, starts: Mapping[str, int], header: bytes) -> None:
        self.path = path
        self.starts = starts
        with writing(path):
            self.file = path.open("wb")
            self.file.write(header)

    def put(self, name: str, array: np.ndarray) -> None:
        """Write the bytes of one tensor."""
        with writing(self.path):
            self.file.seek(self.starts[name])
            for block in ahead(blocks(array)):
                self.file.write(block)

    def __enter__(self) -> Open:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self.path):
            self.file.close()


def arranged(
    path: Path, specs: Mapping[str, Spec], metadata: Mapping[str, str]
) -> tuple[dict[str, int], bytes]:
    """The offset of each tensor, and the header's bytes. The widest dtypes come first, so that all are aligned."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, spec in _widest_first(specs):
        start, end = end, end + nbytes(spec)
        dtype = NAMES[native(spec.dtype)]
        entries[name] = {"dtype": dtype, "shape": list(spec.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise CheckpointError(
            f"{path} cannot be written: its header would have {len(text)} bytes, more than {LONGEST_HEADER}"
        )
    first = 8 + len(text)
    starts = {name: first + entries[name]["data_offsets"][0] for name in specs}
    return starts, len(text).to_bytes(8, "little") + text


def _widest_first(specs: Mapping[str, Spec]) -> Iterator[tuple[str, Spec]]:
    yield from sorted(specs.items(), key=lambda item: -item[1].dtype.itemsize)
