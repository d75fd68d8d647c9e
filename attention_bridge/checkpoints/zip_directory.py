"""Check of a zip file's directory against its end record and the entries themselves.

`zipfile` trusts the directory and ignores entries that it does not list, so such an entry would be silently missing.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import IO, NamedTuple

from attention_bridge.errors import CheckpointError

END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR_64 = struct.Struct("<4sLQL")
LISTED = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
DESCRIPTOR = 0x08  # flag: the lengths and the checksum follow the data
PLAIN = DESCRIPTOR | 0x800 | 0x06  # the flags for UTF-8 names and the compression level
DIRECTORY = 0x10  # attribute of a directory; PyTorch reads no data of such an entry
DESCRIPTORS = (12, 16, 20, 24)  # bytes
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF  # values that refer to a wider field elsewhere


class _End(NamedTuple):
    """The end record: number of entries, size and start of the directory, and the offset where it must end."""

    entries: int
    size: int
    start: int
    here: int


def check_directory(path: Path, archive: zipfile.ZipFile) -> None:
    """Check that a zip file holds exactly the entries that it lists.

    Raises:
        CheckpointError: directory, end record and entries disagree, or the file has bytes outside of them.
    """
    with path.open("rb") as file:
        try:
            _check_listed(file, archive, _end(file, archive, path.stat().st_size))
            _check_entries(file, archive)
        except (struct.error, _DisagreeError) as error:
            why = error if isinstance(error, _DisagreeError) else "it ends too early"
            raise CheckpointError(
                f"{path} is damaged: the directory of the zip file disagrees with its content: {why}"
            ) from error


class _DisagreeError(ValueError):
    pass


def _take(file: IO[bytes], record: struct.Struct, start: int, signature: bytes, what: str) -> tuple[int, ...]:
    if start < 0:
        raise _DisagreeError(f"there is no room for {what}")
    file.seek(start)
    found, *numbers = record.unpack(file.read(record.size))
    if found != signature:
        raise _DisagreeError(f"there is no {what} at {start}")
    return tuple(numbers)


def _end(file: IO[bytes], archive: zipfile.ZipFile, file_size: int) -> _End:
    at = file_size - END.size - len(archive.comment)
    disk, first_disk, here, count, size, start, comment = _take(file, END, at, b"PK\5\6", "end record")
    if comment != len(archive.comment):
        raise _DisagreeError("bytes follow the end record")
    short = _End(count, size, start, at)
    file.seek(max(0, at - LOCATOR_64.size))
    if file.read(4) != b"PK\x06\x07":
        found = short
    else:
        _, at, _ = _take(file, LOCATOR_64, at - LOCATOR_64.size, b"PK\6\7", "locator")
        length, _, _, disk, first_disk, here, count, size, start = _take(
            file, END_64, at, b"PK\6\6", "wide end record"
        )
        found = _End(count, size, start, at)
        if at + 12 + length != short.here - LOCATOR_64.size:
            raise _DisagreeError("the length of the wide end record is wrong")
        for said, wide, full in zip(short[:3], found[:3], (FULL_16, FULL_32, FULL_32), strict=True):
            if said not in (wide, full):
                raise _DisagreeError(f"the end records say {said} and {wide}")
    if disk or first_disk or here != count:
        raise _DisagreeError("it is one part of several")
    return found


def _check_listed(file: IO[bytes], archive: zipfile.ZipFile, end: _End) -> None:
    if end.entries != len(archive.infolist()):
        raise _DisagreeError(
            f"the end record counts {end.entries} entries, but {len(archive.infolist())} are listed"
        )
    if end.start + end.size != end.here:
        raise _DisagreeError(
            f"the directory ends at {end.start + end.size}, and the end record is at {end.here}"
        )
    at = end.start
    for _ in range(end.entries):
        numbers = _take(file, LISTED, at, b"PK\1\2", "entry of the directory")
        at += LISTED.size + sum(numbers[9:12])
    if at != end.here or archive.start_dir != end.start:
        raise _DisagreeError(f"the directory ends at {at}, and the end record is at {end.here}")


def _check_entries(file: IO[bytes], archive: zipfile.ZipFile) -> None:
    """Check that the listed entries fill the file from its beginning to the directory."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    ends = [entry.header_offset for entry in entries[1:]] + [archive.start_dir]
    if (entries[0].header_offset if entries else archive.start_dir) != 0:
        raise _DisagreeError("bytes before the first entry are not listed")
    for entry, end in zip(entries, ends[: len(entries)], strict=True):
        left = end - _check_local(file, entry)
        if left and not (entry.flag_bits & DESCRIPTOR and left in DESCRIPTORS):
            raise _DisagreeError(
                f"{entry.filename} ends {abs(left)} bytes {'before' if left > 0 else 'after'} the next"
            )


def _check_local(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """The end offset of an entry's data; its local header must agree with the directory."""
    _, flags, method, _, _, checksum, packed, size, name, extra = _take(
        file, LOCAL, entry.header_offset, b"PK\3\4", "entry"
    )
    file.seek(name, 1)
    wide = _wide(file.read(extra), [size, packed])
    start = entry.header_offset + LOCAL.size + name + extra
    if strange := (flags | entry.flag_bits) & ~PLAIN:
        raise _DisagreeError(f"{entry.filename} is encrypted or patched, it has the flags {strange:#x}")
    if entry.is_dir() or entry.external_attr & DIRECTORY:
        raise _DisagreeError(f"{entry.filename} is said to be a directory")
    if entry.volume:
        raise _DisagreeError(f"{entry.filename} is in another file")
    if not entry.compress_type and entry.compress_size != entry.file_size:
        raise _DisagreeError(
            f"{entry.filename} has {entry.compress_size} bytes and says that they are {entry.file_size}"
        )
    said = [method, checksum, wide[1], wide[0]]
    listed = [entry.compress_type, entry.CRC, entry.compress_size, entry.file_size]
    unsaid = flags & DESCRIPTOR and not any(said[1:])
    if said != listed and not (unsaid and said[0] == listed[0]):
        raise _DisagreeError(f"{entry.filename} has {said} in its own header and {listed} in the directory")
    return start + entry.compress_size


def _wide(extra: bytes, sizes: list[int]) -> list[int]:
    """The sizes of an entry, taken from the extra field of the Zip64 format where it has them."""
    if FULL_32 not in sizes:
        return sizes
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, 4))
            return [next(wide, size) if size == FULL_32 else size for size in sizes]
        extra = extra[4 + length :]
    return sizes
