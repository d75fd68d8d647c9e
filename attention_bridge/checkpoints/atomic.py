"""Files and directories that are replaced whole or not at all."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attention_bridge.checkpoints.faults import writing
from attention_bridge.checkpoints.temporaries import remove, remove_stale, temporary_name
from attention_bridge.errors import CheckpointError

# What ends a process unasked, as far as the system knows it.
ENDING = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]


def check_place(path: Path) -> None:
    """Refuse a path whose directory does not exist.

    Raises:
        CheckpointError: there is no such directory.
    """
    if not path.parent.is_dir():
        raise CheckpointError(f"{path} cannot be written: {path.parent} is not a directory")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name; what the block writes there takes the place of `path` once it is on disk.

    If the block fails or is interrupted, whatever has the name `path` stays and the temporary is removed. Temporaries
    of processes that were killed before are removed, too.

    Raises:
        CheckpointError: there is no such directory.
        DiskError: the system cannot write.
    """
    check_place(path)
    remove_stale(path.parent)
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
    """Have SIGTERM and SIGHUP leave the block as an exception, so that temporaries are removed.

    Only then the signal ends the process, as it would have at once: for a shell, with exit code 143 or 129.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    # Where a handler is set, the program, or a block around this one, has its own way.
    ours = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    came: list[int] = []

    def leave(number: int, _: object) -> None:
        came.append(number)
        if len(came) == 1:  # a second one must not break off the cleaning up
            raise SystemExit(128 + number)

    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if came:
            os.kill(os.getpid(), came[0])


@contextmanager
def calling(temporary: Path, path: Path) -> Iterator[None]:
    """Have errors speak of the file that the user named, not of its temporary name."""
    try:
        yield
    except CheckpointError as error:
        if temporary.name not in error.whole:
            raise
        message = error.whole.replace(str(temporary.absolute()), str(path)).replace(str(temporary), str(path))
        raise type(error)(message) from error


def swap(temporary: Path, path: Path) -> None:
    """Rename, where a directory may stand as well: it is moved aside first, and back if renaming fails."""
    if not (temporary.is_dir() and path.exists()):
        temporary.replace(path)
        return
    aside = temporary_name(path, "old")
    try:
        path.rename(aside)
        temporary.rename(path)
    except BaseException:
        if not path.exists():
            aside.rename(path)
        raise
    finally:
        if path.exists():
            remove(aside)


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
