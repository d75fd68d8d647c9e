"""Reading and writing of checkpoints as named numpy arrays.

| function | does                                                                           |
|----------|--------------------------------------------------------------------------------|
| `read`   | reads a whole safetensors checkpoint, in one file or in shards                 |
| `write`  | writes a safetensors file                                                      |
| `find`   | detects the format of a file or directory                                      |
| `open`   | opens a checkpoint of any format; tensors are read one at a time               |
| `save`   | writes a checkpoint of any format but GGUF, from an iterator of tensors        |

| format        | files                                       | needs | read            | written         |
|---------------|---------------------------------------------|-------|-----------------|-----------------|
| `safetensors` | `.safetensors`, with or without index       |       | one at a time   | one at a time   |
| `torch`       | `.bin`, `.pt`, `.pth`; index (only read)    | torch | one at a time   | all at once     |
| `npz`         | `.npz`                                      |       | one at a time   | one at a time   |
| `msgpack`     | `.msgpack`; index (only read)               | flax  | all at once     | all at once     |
| `orbax`       | a directory                                 | orbax | one at a time   | all at once     |
| `keras`       | `.weights.h5`, `.h5`; `.weights.json`, `.keras` (only read) | h5py | one at a time | one at a time |
| `gguf`        | `.gguf`, dequantised to float32             | gguf, if quantised | one at a time | no    |

bfloat16 and the 8-bit floats are read and written as ml_dtypes. Names of nested tensors are joined with dots.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from attention_bridge.checkpoints import (
    flax_msgpack,
    format_detection,
    gguf_file,
    keras_archive,
    keras_h5,
    keras_index,
    npz,
    orbax_directory,
    safetensors_file,
    safetensors_shards,
    torch_file,
)
from attention_bridge.checkpoints.atomic import check_place, replacing
from attention_bridge.checkpoints.dtypes import check_writable
from attention_bridge.checkpoints.faults import contents
from attention_bridge.checkpoints.format_detection import Found
from attention_bridge.checkpoints.reader import Reader, check_unchanged, file_state
from attention_bridge.checkpoints.safetensors_file import DTYPES, save_file
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec

__all__ = [
    "DTYPES",
    "FORMATS",
    "INDEX",
    "SINGLE",
    "Found",
    "Reader",
    "Spec",
    "find",
    "open",
    "read",
    "save",
    "write",
]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

OPENERS = {
    "safetensors": safetensors_file.open,
    "safetensors index": safetensors_shards.open,
    "torch": torch_file.open,
    "torch index": torch_file.open_shards,
    "npz": npz.open,
    "msgpack": flax_msgpack.open,
    "msgpack index": flax_msgpack.open_shards,
    "orbax": orbax_directory.open,
    "keras": keras_h5.open,
    "keras index": keras_index.open,
    "keras archive": keras_archive.open,
    "gguf": gguf_file.open,
}
WRITERS = {
    "safetensors": safetensors_file.write,
    "torch": torch_file.write,
    "npz": npz.write,
    "msgpack": flax_msgpack.write,
    "orbax": orbax_directory.write,
    "keras": keras_h5.write,
    "gguf": gguf_file.write,
}
FORMATS = tuple(WRITERS)


def find(path: str | os.PathLike[str]) -> Found:
    """Detect the format of a checkpoint from its name and its content.

    Args:
        path: a file, the index of a sharded checkpoint, or a directory with either.

    Returns:
        The format, the file to open, and the evidence in words.

    Raises:
        CheckpointError: there is no checkpoint of a known format, or name and content disagree.
    """
    return format_detection.find(Path(path))


def open(path: str | os.PathLike[str] | Found) -> Reader:
    """Open a checkpoint of any format.

    Args:
        path: a file, the index of a sharded checkpoint, or a directory with either; or the result of `find`.

    Returns:
        A reader with the names, shapes and dtypes; values are read one tensor at a time.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged, incomplete or unsafe to read.
        InputError: a package that the format needs is not installed.
    """
    found = path if isinstance(path, Found) else find(path)
    if found.format not in OPENERS:
        raise CheckpointError(f"{found.path} is no checkpoint, and may have to be unpacked: {found.evidence}")
    state = file_state(found.path)
    reader = OPENERS[found.format](found.path)
    try:
        check_unchanged(found.path, state)
    except CheckpointError:
        reader.close()
        raise
    return reader


def save(
    path: str | os.PathLike[str],
    items: Iterable[tuple[str, np.ndarray]],
    specs: Mapping[str, Spec],
    metadata: Mapping[str, str] | None = None,
    *,
    format: str | None = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Write a checkpoint. An existing one of that name is replaced only when the new one is complete.

    Args:
        path: file to write, or directory for Orbax; its parent directory must exist.
        items: pairs of name and array, in any order. Where the format allows, each is written before the next is
            requested.
        specs: shape and dtype of each tensor, by name.
        metadata: text to store with the tensors, for safetensors and npz; None for none.
        format: one of `FORMATS`; None for the format of the file's suffix.
        max_shard_bytes: largest size of the tensors in one safetensors file. A larger checkpoint becomes several
            files with an index, and an existing file called `path` is removed. None for a single file.

    Raises:
        CheckpointError: the format is unknown, the tensors differ from `specs`, or the format cannot store them.
        DiskError: the system cannot write.
        InputError: a package that the format needs is not installed.
        TypeError: metadata is not text.
    """
    path = Path(path)
    format = format or format_detection.named(path)
    if format not in WRITERS:
        raise CheckpointError(
            f"{path} cannot be written: a format is one of {', '.join(FORMATS)}, but its name suggests {format}"
        )
    if path.exists() and not (path.is_dir() or path.is_file()):
        raise CheckpointError(f"{path} cannot be written: it is neither a file nor a directory")
    if path.exists() and path.is_dir() != (format == "orbax"):
        kind = "directory" if path.is_dir() else "file"
        raise CheckpointError(f"{path} cannot be written as {format}: there is a {kind} of that name")
    if max_shard_bytes is not None:
        if format != "safetensors":
            raise CheckpointError(f"{path} cannot be written: only safetensors has shards here, not {format}")
        safetensors_shards.write(path, items, specs, metadata or {}, max_shard_bytes)
        return
    with replacing(path) as temporary:
        WRITERS[format](temporary, items, specs, metadata or {})
    if format == "safetensors":
        safetensors_shards.remove_index(path)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a safetensors checkpoint.

    Args:
        path: a safetensors file, the index of a sharded one, or a directory with either
            (`model.safetensors`, else `model.safetensors.index.json`).

    Returns:
        Arrays by name; each owns its memory.

    Raises:
        CheckpointError: the checkpoint is missing, truncated, damaged, empty or incomplete.
    """
    path = Path(path)
    if path.is_dir():
        path = _find(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; {path.parent} holds {contents(path.parent)}")
    opener = safetensors_shards.open if path.suffix == ".json" else safetensors_file.open
    with opener(path) as reader:
        return {name: np.array(array) for name, array in reader.items()}


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file. An existing file of that name is replaced only when the new one is complete.

    Args:
        path: file to write; its directory must exist.
        tensors: arrays by name.
        metadata: text to store with the tensors; None for none.

    Raises:
        CheckpointError: there is no such directory, or safetensors does not support a tensor's dtype.
        DiskError: the system cannot write.
        TypeError: metadata is not text.
    """
    path = Path(path)
    check_place(path)
    specs = {name: Spec(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    check_writable(path, "safetensors", specs, DTYPES.values())
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)
    safetensors_shards.remove_index(path)


def _find(directory: Path) -> Path:
    for name in (SINGLE, INDEX):
        if (directory / name).exists():
            return directory / name
    raise CheckpointError(f"{directory} has neither {SINGLE} nor {INDEX}; it holds {contents(directory)}")
