"""Zip files, the container of npz, `.keras` and `torch.save` files, with consistency checks before reading."""

from __future__ import annotations

import zipfile
from pathlib import Path

from attention_bridge.checkpoints.faults import check_inflation
from attention_bridge.checkpoints.zip_directory import LOCAL, check_directory
from attention_bridge.errors import CheckpointError

CHUNK = 2**20
LOCAL_MARK, END_MARK = b"PK\x03\x04", b"PK\x05\x06"
LONGEST_END = 22 + 2**16  # bytes, with the longest comment


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file and check its directory.

    Entry names must be unique, the entries must not be far larger than the file, and the directory, the end record
    and the entries must agree.

    Raises:
        CheckpointError: a check fails.
        zipfile.BadZipFile: the file is no zip file. `zipfile` may raise other errors on damaged files.
    """
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        if not _is_truncated(path):
            raise
        raise CheckpointError(
            f"{path} is truncated: it begins as a zip file, but its end is missing; download or copy it again"
        ) from error
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


def _is_truncated(path: Path) -> bool:
    """Whether a file begins as a zip file and lacks the record at the end of one."""
    with path.open("rb") as file:
        begins = file.read(len(LOCAL_MARK)) == LOCAL_MARK
        file.seek(max(0, path.stat().st_size - LONGEST_END))
        return begins and END_MARK not in file.read()


def check_sum(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Read an entry to its end, so that `zipfile` verifies its checksum.

    Raises:
        CheckpointError: the checksum or the length is wrong.
    """
    left = entry.file_size
    try:
        with archive.open(entry) as file:
            while chunk := file.read(CHUNK):
                left -= len(chunk)
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is damaged: {entry.filename} has a wrong checksum") from error
    if left:
        raise CheckpointError(f"{path} is damaged: {entry.filename} ends {left} bytes too early")


def start_of(path: Path, entry: zipfile.ZipInfo) -> int:
    """The offset of an entry's data in the file; its local header may be longer than the directory says."""
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        *_, name, extra = LOCAL.unpack(file.read(LOCAL.size))
    return entry.header_offset + LOCAL.size + int(name) + int(extra)
