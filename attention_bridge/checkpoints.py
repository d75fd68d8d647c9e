"""Checkpoints on disk as named numpy arrays: safetensors, in one file or in shards.

Neither framework is needed. bfloat16 and the 8-bit floats are read and written as ml_dtypes.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from attention_bridge.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

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


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a checkpoint.

    Args:
        path: a safetensors file, the index of a sharded one, or a directory with either
            (`model.safetensors`, else `model.safetensors.index.json`).

    Returns:
        Name to array, each in memory of its own.

    Raises:
        CheckpointError: the checkpoint is missing, truncated, damaged, empty or incomplete.
    """
    path = Path(path)
    if path.is_dir():
        path = _find(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; {path.parent} holds {_contents(path.parent)}")
    if path.suffix == ".json":
        return dict(_read_shards(path))
    return dict(_read_file(path))


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file. Until it is complete, an older file of that name stays as it was.

    Args:
        path: the file to write; its directory must exist.
        tensors: name to array.
        metadata: text to keep with the tensors.

    Raises:
        CheckpointError: there is no such directory, or a tensor's dtype has no place in safetensors.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CheckpointError(f"{path} cannot be written: {path.parent} is not a directory")
    for name, tensor in tensors.items():
        if tensor.dtype.newbyteorder("=") not in DTYPES.values():
            raise CheckpointError(
                f"{path} cannot be written: safetensors has no {tensor.dtype}, as {name} is"
            )
    dense = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}

    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb"):
            mode = temporary.stat().st_mode  # what the user's umask gives; the library would make it private
        save_file(dense, temporary, None if metadata is None else dict(metadata))
        temporary.chmod(mode)
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _find(directory: Path) -> Path:
    for name in (SINGLE, INDEX):
        if (directory / name).exists():
            return directory / name
    raise CheckpointError(f"{directory} has neither {SINGLE} nor {INDEX}; it holds {_contents(directory)}")


def _contents(directory: Path) -> str:
    names = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
    return ", ".join(names) or "nothing"


def _read_shards(index: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of a sharded checkpoint, shard by shard."""
    shards = _shards(index)
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise CheckpointError(
            f"{index} names shards that are missing: {', '.join(absent)}; "
            f"{index.parent} holds {_contents(index.parent)}"
        )
    for shard, names in shards.items():
        found = dict(_read_file(index.parent / shard))
        if found.keys() != names:
            differing = ", ".join(sorted(found.keys() ^ names))
            raise CheckpointError(f"{index} and {shard} disagree about which tensors are in it: {differing}")
        yield from found.items()


def _shards(index: Path) -> dict[str, set[str]]:
    """Which tensors the index says are in which shard."""
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        shards: dict[str, set[str]] = {}
        for name, shard in weight_map.items():
            if shard != Path(shard).name:
                raise CheckpointError(f"{index} names a shard outside its directory: {shard}")
            shards.setdefault(shard, set()).add(name)
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not the index of a sharded checkpoint") from error
    if not shards:
        raise CheckpointError(f"{index} names no tensors")
    return shards


def _read_file(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of one file.

    The library checks the file. The bytes are read here, because for numpy it does not read 8-bit floats.
    """
    header, start = _read_header(path)
    with path.open("rb") as file:
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise CheckpointError(f"{path} cannot be read: numpy has no {entry['dtype']}, as {name} is")
            tensor = np.empty(entry["shape"], DTYPES[entry["dtype"]])
            file.seek(start + entry["data_offsets"][0])
            file.readinto(tensor.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
            yield name, tensor


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, without metadata, and where the data start."""
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(f"{path} is empty")
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if start > size:
            raise CheckpointError(
                f"{path} is truncated or no safetensors file: it has {size} bytes, its header ends at {start}"
            )
        try:
            with safe_open(path, framework="np"):
                header = json.loads(file.read(start - 8))
        except SafetensorError as error:
            raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error
    header.pop("__metadata__", None)
    return header, start


def _flush(path: Path) -> None:
    """Have the system write a file, or the entries of a directory, to disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no directories, and has written the entry already
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
