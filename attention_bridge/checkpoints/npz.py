"""Npz files of `np.savez`.

`np.load` returns bfloat16 and the 8-bit floats as raw bytes (`|V2`, `|V1`). The entry `__dtypes__` stores their dtype
names, and the entry `__metadata__` stores text; both are JSON in a zero-dimensional array of text.
"""

from __future__ import annotations

import ast
import io
import json
import struct
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from attention_bridge.checkpoints.dtypes import ALL, EXTENDED, blocks, check_writable, native, supported
from attention_bridge.checkpoints.duplicate_keys import unique
from attention_bridge.checkpoints.faults import nbytes, reading, writing
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.checkpoints.write_checks import Items, check_names, promised
from attention_bridge.checkpoints.zips import CHUNK, open_zip
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec

DTYPES_ENTRY, METADATA_ENTRY = "__dtypes__", "__metadata__"
LONGEST_NOTE = 2**26  # bytes
KIND = "npz file"
HEADERS = {
    (1, 0): ("<H", np.lib.format.read_array_header_1_0),
    (2, 0): ("<I", np.lib.format.read_array_header_2_0),
}
FIELDS = ("descr", "fortran_order", "shape")
LONGEST_HEADER = 10_000  # bytes; numpy reads no longer ones


class Entry(NamedTuple):
    """The header of an entry: its stored shape and dtype, and whether it is in Fortran order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_columns: bool


def open(path: Path, *, without: Collection[str] = ()) -> Reader:
    """Open an npz file. Tensors are read one at a time, each whole, so that its checksum is verified.

    Args:
        path: the file.
        without: names of entries to skip, such as entries of text.

    Raises:
        CheckpointError: the file is damaged, is not an npz file, or holds entries that are not tensors.
    """
    with reading(path, KIND):
        archive = open_zip(path)
    try:
        with reading(path, KIND):
            return _open(path, archive, without)
    except BaseException:
        archive.close()
        raise


def _open(path: Path, archive: zipfile.ZipFile, without: Collection[str]) -> Reader:
    members = {}
    for member in archive.infolist():
        if not member.filename.endswith(".npy"):
            raise CheckpointError(f"{path} is no npz file: it holds {member.filename}")
        members[member.filename.removesuffix(".npy")] = member
    if not members:
        raise CheckpointError(f"{path} holds no tensors")
    members = {name: member for name, member in members.items() if name not in without}
    dtypes, metadata = (
        _note(path, archive, members.pop(name, None)) for name in (DTYPES_ENTRY, METADATA_ENTRY)
    )
    specs = {}
    for name, member in members.items():
        with archive.open(member) as file:
            stored = _header(path, name, file)
            dtype = _dtype(path, name, stored.dtype, dtypes.get(name))
            specs[name] = Spec(stored.shape, dtype)
            if file.tell() + nbytes(specs[name]) != member.file_size:
                raise CheckpointError(
                    f"{path} is damaged: {name} is {specs[name]}, which does not fit "
                    f"the {member.file_size} bytes of its entry"
                )

    def fetch(name: str) -> np.ndarray:
        with archive.open(members[name]) as file:
            return _values(path, name, file, specs[name])

    return Reader(path, "npz", specs, metadata, fetch, archive.close)


def read_texts(path: Path, names: Collection[str]) -> dict[str, list[str]]:
    """Read the named entries that are one-dimensional arrays of strings; others are ignored.

    Raises:
        CheckpointError: the file is damaged or not an npz file, or such an entry has more than 64 MiB.
    """
    texts = {}
    with reading(path, KIND), open_zip(path) as archive:
        for name in names:
            if f"{name}.npy" not in archive.namelist():
                continue
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as file:
                entry = _header(path, name, file)
            if entry.dtype.kind != "U" or len(entry.shape) != 1:
                continue
            if member.file_size > LONGEST_NOTE:
                raise CheckpointError(f"{path} is refused: {name} has more than {LONGEST_NOTE} bytes")
            with archive.open(member) as file:
                texts[name] = np.lib.format.read_array(file, allow_pickle=False).tolist()
    return texts


def _header(path: Path, name: str, file: IO[bytes]) -> Entry:
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise CheckpointError(
            f"{path} cannot be read: {name} is in version {version} of npy, which holds no tensors"
        )
    kind, parse = HEADERS[version]
    said = file.read(struct.calcsize(kind))
    [length] = struct.unpack(kind, said)
    if length > LONGEST_HEADER:
        raise CheckpointError(f"{path} is damaged: the header of {name} has {length} bytes")
    text = file.read(length)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers written by Python 2
        shape, by_columns, dtype = parse(io.BytesIO(said + text))
    literal = ast.parse(text.decode("latin1").strip(), mode="eval").body
    if len(getattr(literal, "keys", ())) != len(FIELDS):
        raise CheckpointError(f"{path} is damaged: the header of {name} gives a field twice")
    return Entry(shape, dtype, by_columns)


def _dtype(path: Path, name: str, stored: np.dtype[Any], noted: object) -> np.dtype[Any]:
    if noted is not None:
        dtype = EXTENDED.get(noted) if isinstance(noted, str) else None
        if dtype is None or stored != np.dtype(f"V{dtype.itemsize}"):
            raise CheckpointError(f"{path} is damaged: {name} is stored as {stored} and said to be {noted}")
        return dtype
    if stored.kind == "V":
        raise CheckpointError(f"{path} cannot be read: nothing says which dtype the raw bytes of {name} are")
    return supported(path, name, stored)


def _values(path: Path, name: str, file: IO[bytes], spec: Spec) -> np.ndarray:
    stored = _header(path, name, file)
    shape = stored.shape[::-1] if stored.by_columns else stored.shape
    array = np.empty(shape, spec.dtype if stored.dtype.kind == "V" else stored.dtype)
    view = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    filled = 0
    while chunk := file.read(min(CHUNK, array.nbytes - filled + 1)):
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    if filled != array.nbytes:
        raise CheckpointError(f"{path} is damaged: {name} has {filled} bytes instead of {array.nbytes}")
    array = array.T if stored.by_columns else array
    return array.astype(native(array.dtype), copy=False)


def _note(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo | None) -> dict[str, Any]:
    if member is None:
        return {}
    if member.file_size > LONGEST_NOTE:
        raise CheckpointError(f"{path} is damaged: {member.filename} has more than {LONGEST_NOTE} bytes")
    with archive.open(member) as file:
        note = json.loads(str(np.lib.format.read_array(file, allow_pickle=False)), object_pairs_hook=unique)
    if not isinstance(note, dict):
        raise CheckpointError(f"{path} is damaged: {member.filename} holds no names")
    return note


def write(path: Path, items: Items, specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> None:
    """Write a new file for `np.load`, one tensor at a time. An existing file of that name is overwritten.

    Raises:
        CheckpointError: the tensors differ from `specs`, or the format cannot store them.
        DiskError: the system cannot write.
    """
    check_writable(path, "npz", specs, ALL)
    check_names(path, specs)
    for name in (DTYPES_ENTRY, METADATA_ENTRY):
        if name in specs:
            raise CheckpointError(f"{path} cannot be written: {name} is no name for a tensor in npz")
    noted = {name: spec.dtype.name for name, spec in specs.items() if spec.dtype.name in EXTENDED}
    with writing(path), zipfile.ZipFile(path, "w") as archive:
        for entry, note in ((DTYPES_ENTRY, noted), (METADATA_ENTRY, dict(metadata))):
            if note:
                _put(archive, entry, np.array(json.dumps(note)))
        for name, array in promised(path, items, specs):
            raw = array.view(f"V{array.dtype.itemsize}") if name in noted else array
            _put(archive, name, raw)


def _put(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    header = {"descr": native(array.dtype).str, "fortran_order": False, "shape": array.shape}
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks(array):
            file.write(block)
