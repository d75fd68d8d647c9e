"""SHA-256 of files and of named arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from attention_bridge.checkpoints.faults import reading


def of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes.

    Raises:
        CheckpointError: the file cannot be read.
    """
    with reading(path, "file"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_array(array: np.ndarray) -> str:
    """The SHA-256 of an array's dtype, shape and values."""
    found = hashlib.sha256(f"{array.dtype.name} {tuple(array.shape)} ".encode())
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def of_arrays(arrays: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]) -> str:
    """The SHA-256 of named arrays, in any order; an iterator's arrays are read one at a time."""
    items = arrays.items() if isinstance(arrays, Mapping) else arrays
    return of_hashes({name: of_array(x) for name, x in items})


def of_hashes(hashes: Mapping[str, str]) -> str:
    """The SHA-256 of named hashes, in any order."""
    found = hashlib.sha256()
    for name in sorted(hashes):
        found.update(f"{name}\0{hashes[name]}\n".encode())
    return found.hexdigest()
