"""Zip files, which npz files and those of torch.save are: checked before anything in them is believed."""

from __future__ import annotations

import zipfile
from pathlib import Path

from attention_bridge.checkpoints.faults import check_inflation
from attention_bridge.checkpoints.zip_directory import LOCAL, check_directory
from attention_bridge.errors import CheckpointError

CHUNK = 2**20


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file whose entries have different names and are not absurdly larger than the file.

    Directory, end record and entries must agree: what stands in the file is listed, and the other way round.

    Raises:
        CheckpointError: they do not, or are.
        zipfile.BadZipFile: it is no zip file; and whatever else zipfile raises.
    """
    archive = zipfile.ZipFile(path)
    try:
        check_inflation(path, sum(entry.file_size for entry in archive.infolist()))
        names = set()
        for entry in archive.infolist():
            if entry.filename in names:
                raise CheckpointError(f"{path} holds two entries that are both called {entry.filename}")
            names.add(entry.filename)
        check_directory(path, archive)
    except BaseException:
        archive.close()
        raise
    return archive


def check_sum(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Read an entry to its end, where zipfile compares its checksum.

    Raises:
        CheckpointError: the checksum or the length is another.
    """
    left = entry.file_size
    try:
        with archive.open(entry) as file:
            while chunk := file.read(CHUNK):
                left -= len(chunk)
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is damaged: {entry.filename} has another checksum than it says"
        ) from error
    if left:
        raise CheckpointError(f"{path} is damaged: {entry.filename} ends {left} bytes too early")


def start_of(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin in the file; its own header may be longer than the directory says."""
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        *_, name, extra = LOCAL.unpack(file.read(LOCAL.size))
    return entry.header_offset + LOCAL.size + int(name) + int(extra)
