"""Conversion of I/O and parser errors into a one-line `CheckpointError` or `DiskError` that names the file."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from attention_bridge.errors import CheckpointError, DiskError
from attention_bridge.weights.leaves import Spec

# The tensors of a file may have this many times its size, or this many bytes, whichever is more.
MOST_INFLATION = 100
ALWAYS_ALLOWED = 2**30


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Convert exceptions of the block, which reads a file, into a `CheckpointError` or `DiskError`.

    Args:
        path: the file being read.
        kind: expected kind of file, such as "npz file".

    Raises:
        CheckpointError: the block raised any `Exception` but an I/O error.
        DiskError: the block raised an I/O error.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        # A damaged file can make its reader seek to an invalid offset, which is EINVAL and not an I/O error.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise DiskError(f"{path} cannot be read: {_reason(error)}") from error
        raise CheckpointError(f"{path} is damaged or no {kind}: {one_line(error)}") from error


@contextmanager
def writing(path: Path, *kinds: type[BaseException]) -> Iterator[None]:
    """Convert operating-system errors, and errors of the given kinds, into a `DiskError`.

    If a library turned Ctrl-C or `SystemExit` into such an error, the interruption is raised again instead.
    """
    outside = sys.exception()
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as error:
        if not isinstance(error, (OSError, *kinds)):
            raise
        if interruption := _interruption(error, outside):
            raise interruption from None
        raise DiskError(f"{path} cannot be written: {_reason(error)}") from error


def _interruption(error: BaseException, outside: BaseException | None) -> BaseException | None:
    """The `KeyboardInterrupt` or `SystemExit` that caused an error, unless it was being handled `outside` already."""
    first: BaseException | None = error
    while first is not None and first is not outside:
        if isinstance(first, KeyboardInterrupt | SystemExit):
            return first
        first = first.__cause__ or first.__context__
    return None


def _reason(error: BaseException) -> str:
    """The operating system's message, if its error is this one or its cause, else the error's own message."""
    first: BaseException | None = error
    while first is not None:
        if isinstance(first, OSError) and first.errno:
            return os.strerror(first.errno)
        first = first.__cause__ or first.__context__
    return one_line(error)


def one_line(error: BaseException) -> str:
    """The message of an exception, or its type's name, on one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def contents(directory: Path) -> str:
    """The names in a directory, for messages."""
    names = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
    return ", ".join(names) or "nothing"


def nbytes(spec: Spec) -> int:
    """Size of a tensor in bytes."""
    return math.prod(spec.shape) * spec.dtype.itemsize


def check_inflation(path: Path, declared: int, size: int | None = None) -> None:
    """Check that a small file does not declare very large tensors.

    Args:
        path: the file.
        declared: total size of the declared tensors, in bytes.
        size: size of the file, in bytes; None to ask the system.

    Raises:
        CheckpointError: `declared` bytes are more than 1 GiB and more than 100 times the size of the file.
    """
    size = path.stat().st_size if size is None else size
    if declared > max(MOST_INFLATION * size, ALWAYS_ALLOWED):
        raise CheckpointError(
            f"{path} is refused: it has {size} bytes and declares {declared}, "
            f"which is more than {MOST_INFLATION} times as many"
        )


def check_specs(path: Path, specs: dict[str, Spec]) -> None:
    """Check that all names are text and that numpy arrays can have all shapes.

    Raises:
        CheckpointError: there is such a name or shape.
    """
    for name, spec in specs.items():
        try:
            name.encode()
            np.broadcast_to(np.empty((), spec.dtype), spec.shape)
        except UnicodeEncodeError as error:
            raise CheckpointError(f"{path} has a tensor whose name is not text: {name!a}") from error
        except ValueError as error:
            raise CheckpointError(f"{path} has a tensor that no array can hold: {name} is {spec}") from error
