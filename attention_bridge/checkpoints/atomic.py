"""Atomic replacement of files and directories."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attention_bridge.checkpoints.faults import writing
from attention_bridge.checkpoints.temporaries import remove, remove_stale, temporary_name
from attention_bridge.errors import CheckpointError

# Signals that terminate a process, as far as the platform has them.
ENDING = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]


def check_place(path: Path) -> None:
    """Check that the directory of a path exists.

    Raises:
        CheckpointError: there is no such directory.
    """
    if not path.parent.is_dir():
        raise CheckpointError(f"{path} cannot be written: {path.parent} is not a directory")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` at the end of the block, once its content is on disk.

    If the block fails or is interrupted, `path` stays unchanged and the temporary file is removed. Temporary files of
    killed processes are removed, too.

    Raises:
        CheckpointError: there is no such directory.
        DiskError: the system cannot write.
    """
    check_place(path)
    remove_stale(path.parent)
    temporary = temporary_name(path)
    with ending_by_signal():
        yield from _replacing(path, temporary)


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[dict[Path, Path]]:
    """Yield temporary paths that replace several files of one directory at the end of the block, in this order.

    If the block fails or is interrupted, all files stay unchanged.

    Raises:
        CheckpointError: there is no such directory.
        DiskError: the system cannot write.
    """
    for path in paths:
        check_place(path)
    if paths:
        remove_stale(paths[0].parent)
    temporaries = {path: temporary_name(path) for path in paths}
    with ending_by_signal(), ExitStack() as stack:
        for path, temporary in temporaries.items():
            stack.callback(remove, temporary)
            stack.enter_context(writing(path))
            stack.enter_context(calling(temporary, path))
        yield temporaries
        for temporary in temporaries.values():
            flush(temporary)
        for path, temporary in temporaries.items():
            swap(temporary, path)
        for directory in {path.parent for path in paths}:
            flush_entries(directory)


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
    """Turn SIGTERM and SIGHUP into an exception inside the block, so that temporary files are removed.

    After the block, the signal terminates the process as usual: a shell sees exit code 143 or 129.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    # An existing handler belongs to the program or to an enclosing block, and is kept.
    ours = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    came: list[int] = []

    def leave(number: int, _: object) -> None:
        came.append(number)
        if len(came) == 1:  # a second signal must not interrupt the cleanup
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
    """Replace the temporary name by `path` in the messages of checkpoint errors."""
    try:
        yield
    except CheckpointError as error:
        if temporary.name not in error.whole:
            raise
        message = error.whole.replace(str(temporary.absolute()), str(path)).replace(str(temporary), str(path))
        raise type(error)(message) from error


def swap(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`; an existing directory is moved aside first, and back if renaming fails."""
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
    """Flush a file, or everything in a directory, to disk."""
    if path.is_dir():
        for below in path.iterdir():
            flush(below)
        flush_entries(path)
        return
    _fsync(path)


def flush_entries(directory: Path) -> None:
    """Flush the entries of a directory to disk."""
    if os.name != "nt":  # Windows cannot open directories, and has written the entries already
        _fsync(directory)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
