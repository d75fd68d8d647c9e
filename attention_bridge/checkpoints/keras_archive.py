"""Whole Keras models, `.keras`: zip files with a configuration in JSON and the weights in HDF5.

Only the tensors and the configuration are read. The configuration is data: its classes are not looked up, and no code
in it is run.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from attention_bridge.checkpoints import keras_h5
from attention_bridge.checkpoints.atomic import ending_by_signal
from attention_bridge.checkpoints.faults import reading
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.checkpoints.zips import open_zip
from attention_bridge.errors import CheckpointError

CONFIG = "config.json"
WEIGHTS = "model.weights.h5"
LARGEST = 2**26  # bytes of the configuration


def open(path: Path) -> Reader:
    """Open a `.keras` file. HDF5 needs random access, so the weights are unpacked into a temporary file.

    Returns:
        A reader of the tensors by their paths in the HDF5 file; `metadata["config"]` is the model's configuration.

    Raises:
        CheckpointError: the file is damaged, has no weights in HDF5, or has entries whose names lead elsewhere.
        InputError: h5py is not installed.
    """
    with reading(path, "Keras file"), open_zip(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        for name in entries:
            _check_name(path, name)
        others = [name for name in entries if name.startswith("model.weights.") and name != WEIGHTS]
        if WEIGHTS not in entries or others:
            raise CheckpointError(
                f"{path} is refused: its weights must be in {WEIGHTS} alone, but it holds "
                f"{', '.join(others) or 'none'}"
            )
        if CONFIG not in entries:
            raise CheckpointError(f"{path} is damaged: it has no {CONFIG}")
        config = _config(path, archive, entries[CONFIG])
        unpacked = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        with ending_by_signal():
            try:
                place = Path(unpacked.name) / WEIGHTS
                with archive.open(entries[WEIGHTS]) as source, place.open("wb") as target:
                    shutil.copyfileobj(source, target, 2**20)
                reader = keras_h5.open_at(path, place)
            finally:
                unpacked.cleanup()  # where the system allows it, an open file stays readable after its deletion

    def release() -> None:
        reader.close()
        unpacked.cleanup()

    return replace(reader, metadata={"config": config}, release=release)


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name.partition("/")[0]:
        raise CheckpointError(f"{path} is refused: the name of an entry leads elsewhere: {name}")


def _config(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> dict[str, Any]:
    if entry.file_size > LARGEST:
        raise CheckpointError(f"{path} is refused: its {CONFIG} has more than {LARGEST} bytes")
    return keras_h5.parse_config(path, archive.read(entry))
