"""Keras weights in HDF5, `.weights.h5`. Names are paths in the file, such as `layers/dense/vars/0`.

HDF5 has no bfloat16: as in Keras, it is stored as raw bytes with the attribute `dtype`.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge.checkpoints import hdf5_walk, isolated
from attention_bridge.checkpoints.dtypes import ALL, EXTENDED, check_writable, native, supported
from attention_bridge.checkpoints.duplicate_keys import unique
from attention_bridge.checkpoints.faults import check_inflation, nbytes, reading, writing
from attention_bridge.checkpoints.held_file import HeldFile
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.checkpoints.write_checks import Items, check_names, no_metadata, promised
from attention_bridge.errors import CheckpointError, require
from attention_bridge.weights.leaves import Spec

DEADLINE = 30.0  # seconds; a file with thousands of tensors takes one second


def open(path: Path) -> Reader:
    """Open an HDF5 file of weights. Tensors are read one at a time.

    Raises:
        CheckpointError: the file is damaged, is not an HDF5 file, or links to other files.
        InputError: h5py is not installed.
    """
    return open_at(path, path)


def open_at(path: Path, place: Path) -> Reader:
    """Open an HDF5 file under another name in messages.

    Args:
        path: name of the file in messages.
        place: file to open.

    Raises:
        CheckpointError: the file is damaged, is not an HDF5 file, or links to other files.
        InputError: h5py is not installed.
    """
    require(["h5py"], extra="files")
    import h5py

    with reading(path, "HDF5 file"):
        _check_end(path, place)
        size = place.stat().st_size
        file = h5py.File(place, "r")
        try:
            metadata = _description(path, hdf5_walk.description(file))
            specs: dict[str, Spec] = {}
            for name, dataset in hdf5_walk.datasets(file):
                specs[name] = _spec(path, name, dataset)
            if not specs:
                raise CheckpointError(f"{path} holds no tensors")
            check_inflation(place, sum(map(nbytes, specs.values())))
            for name in specs:
                if not _is_written(file[name]):
                    raise CheckpointError(f"{path} is damaged: values of {name} were never written")
        except BaseException:
            file.close()
            raise

    def fetch(name: str) -> np.ndarray:
        array = np.asarray(file[name][()])
        with suppress(FileNotFoundError):  # a deleted file stays whole until it is closed
            if place.stat().st_size < size:  # HDF5 reads zeros after the end of a file
                raise CheckpointError(f"{path} is damaged: it has become shorter, it had {size} bytes")
        if array.dtype.kind == "V":
            return array.view(specs[name].dtype)
        return array.astype(native(array.dtype), copy=False)

    return Reader(path, "keras", specs, metadata, fetch, file.close)


def _description(path: Path, text: str | None) -> dict[str, Any]:
    """The metadata of a reader: the model's configuration, which files in the legacy format have."""
    return {} if text is None else {"config": parse_config(path, text)}


def parse_config(path: Path, text: str | bytes) -> dict[str, Any]:
    """Parse the configuration of a Keras model, as data.

    Raises:
        CheckpointError: the text is not a JSON object.
    """
    try:
        config = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise CheckpointError(
            f"{path} is damaged: the description of its model is no JSON: {str(why)[:120]}"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is damaged: the description of its model is no JSON object")
    return config


def _spec(path: Path, name: str, dataset: Any) -> Spec:
    if dataset.is_virtual or dataset.external:
        raise CheckpointError(f"{path} is refused: the values of {name} are in another file")
    if dataset.shape is None:
        raise CheckpointError(f"{path} cannot be read: {name} has no values")
    stored, said = dataset.dtype, hdf5_walk.said(dataset)
    if isinstance(said, str) and said in EXTENDED:
        if stored.itemsize == EXTENDED[said].itemsize:
            return Spec(dataset.shape, EXTENDED[said])
        raise CheckpointError(f"{path} is damaged: {name} is stored as {stored} and said to be {said}")
    return Spec(dataset.shape, supported(path, name, stored))


def _is_written(dataset: Any) -> bool:
    """Whether all values of a dataset are in the file; HDF5 reads missing ones as zeros."""
    if not dataset.size:
        return True
    if dataset.chunks is None:
        return bool(dataset.id.get_storage_size())
    expected = math.prod(-(-size // step) for size, step in zip(dataset.shape, dataset.chunks, strict=True))
    return bool(dataset.id.get_num_chunks() == expected)


def _check_end(path: Path, place: Path) -> None:
    """Raise unless all names, shapes and attributes of the file at `place` can be read within `DEADLINE`.

    On damaged files the library may loop forever or crash its process, so the check runs in a child process.
    """
    with place.open("rb"):
        pass  # raises the system's own error if the file cannot be opened
    try:
        done = isolated.run(
            Path(hdf5_walk.__file__), str(place.absolute()), modules=["h5py", "numpy"], timeout=DEADLINE
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(
            f"{path} is damaged: {DEADLINE:g} s are not enough to read its names"
        ) from error
    if done.returncode < 0:
        raise CheckpointError(f"{path} is damaged: reading its names ends in signal {-done.returncode}")
    if done.returncode:
        told = (done.stdout or done.stderr.rstrip().rpartition(b"\n")[2]).decode(errors="replace")
        raise ValueError(told or f"reading its names ends with exit status {done.returncode}")


def write(path: Path, items: Items, specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> None:
    """Write a new file, one tensor at a time. `keras.Model.load_weights` can read it if the names are Keras' paths.

    Raises:
        CheckpointError: the tensors differ from `specs`, or the format cannot store them.
        DiskError: the system cannot write.
        InputError: h5py is not installed.
    """
    require(["h5py"], extra="files")
    import h5py

    check_writable(path, "HDF5", specs, ALL)
    check_names(path, specs)
    no_metadata(path, "a file of Keras's weights", metadata)
    _check_paths(path, specs)
    with writing(path):
        held = HeldFile(path)
    with held:
        with held.raising(path):
            file = h5py.File(held, "w")
        try:
            for name, array in promised(path, items, specs):
                with held.raising(path):
                    _put(file, name, array)
        except BaseException:
            _close_quietly(file)
            raise
        with held.raising(path):
            file.close()


def _put(file: Any, name: str, array: np.ndarray) -> None:
    if array.dtype.name in EXTENDED:
        dense = np.asarray(array, native(array.dtype), order="C")
        dataset = file.create_dataset(name, data=dense.view(f"V{array.dtype.itemsize}"))
        dataset.attrs["dtype"] = array.dtype.name
    else:
        file.create_dataset(name, data=array, dtype=native(array.dtype))


def _close_quietly(file: Any) -> None:
    """Close a discarded file; further write errors are ignored."""
    with suppress(OSError, RuntimeError):
        file.close()


def _check_paths(path: Path, specs: Mapping[str, Spec]) -> None:
    for name in specs:
        parts = name.split("/")
        if "" in parts or "." in parts:
            raise CheckpointError(f"{path} cannot be written: {name!r} is no path in an HDF5 file")
        for end in range(1, len(parts)):
            if (above := "/".join(parts[:end])) in specs:
                raise CheckpointError(
                    f"{path} cannot be written: {name} lies below {above}, which is a tensor"
                )
