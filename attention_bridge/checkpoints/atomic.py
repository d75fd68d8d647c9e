"""Files and directories that are replaced whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attention_bridge.checkpoints.faults import writing
from attention_bridge.errors import CheckpointError


def check_place(path: Path) -> None:
    """Refuse a path whose directory does not exist.

    Raises:
        CheckpointError: there is no such directory.
    """
    if not path.parent.is_dir():
        raise CheckpointError(f"{path} cannot be written: {path.parent} is not a directory")


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nothing has."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name; what the block writes there takes the place of `path` once it is on disk.

    If the block fails or is interrupted, whatever has the name `path` stays and the temporary is removed.

    Raises:
        CheckpointError: there is no such directory.
        DiskError: the system cannot write.
    """
    check_place(path)
    temporary = temporary_name(path)
    with ending_by_signal():
        yield from _replacing(path, temporary)


def _replacing(path: Path, temporary: Path) -> Iterator[Path]:
    try:
        with writing(path), calling(temporary, path):
            yield temporary
            flush(temporary)
            swap(temporary, path)
            flush_entries(path.parent)
    finally:
        remove(temporary)


@contextmanager
def ending_by_signal() -> Iterator[None]:
    """Have SIGTERM leave the block as an exception, so that temporaries are removed; only then it ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield  # the program, or a block around this one, has its own way
        return
    came = False

    def leave(number: int, _: object) -> None:
        nonlocal came
        came = True
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if came:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def calling(temporary: Path, path: Path) -> Iterator[None]:
    """Have errors speak of the file that the user named, not of its temporary name."""
    try:
        yield
    except CheckpointError as error:
        if temporary.name not in str(error):
            raise
        message = str(error).replace(str(temporary.absolute()), str(path)).replace(str(temporary), str(path))
        raise type(error)(message) from error


def swap(temporary: Path, path: Path) -> None:
    """Rename, where a directory may stand as well: it is moved aside first, and back if renaming fails."""
    if not (temporary.is_dir() and path.exists()):
        temporary.replace(path)
        return
    aside = temporary_name(path)
    path.rename(aside)
    try:
        temporary.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    remove(aside)


def remove(path: Path) -> None:
    """Remove a file or a directory, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the system write a file, or everything in a directory, to disk."""
    if path.is_dir():
        for below in path.iterdir():
            flush(below)
        flush_entries(path)
        return
    _fsync(path)


def flush_entries(directory: Path) -> None:
    """Have the system write which names are in a directory."""
    if os.name != "nt":  # Windows opens no directories, and has written the entry already
        _fsync(directory)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
