"""Whatever goes wrong with a file becomes one sentence that names it."""

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

# A file may stand for this many times its size, or for this many bytes, whichever is more.
MOST_INFLATION = 100
ALWAYS_ALLOWED = 2**30


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises on a bad file into a `CheckpointError`.

    Args:
        path: the file being read.
        kind: what it should be, such as "npz file".

    Raises:
        CheckpointError: the block raised anything but that, or ran out of memory or depth.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        # A damaged file can send its reader to places that no file has: that is an invalid argument.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise DiskError(f"{path} cannot be read: {_reason(error)}") from error
        raise CheckpointError(f"{path} is damaged or no {kind}: {one_line(error)}") from error


@contextmanager
def writing(path: Path, *kinds: type[BaseException]) -> Iterator[None]:
    """Turn the system's errors, and those of the kinds given, into a `DiskError`.

    Where a library answers Ctrl-C, or a request to exit, with such an error, the interruption is raised again.
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
    """Ctrl-C or a request to exit that led to an error, unless it was being handled `outside` already."""
    first: BaseException | None = error
    while first is not None and first is not outside:
        if isinstance(first, KeyboardInterrupt | SystemExit):
            return first
        first = first.__cause__ or first.__context__
    return None


def _reason(error: BaseException) -> str:
    """The system's own words, if the system's error is this one or led to it: libraries add much of their own."""
    first: BaseException | None = error
    while first is not None:
        if isinstance(first, OSError) and first.errno:
            return os.strerror(first.errno)
        first = first.__cause__ or first.__context__
    return one_line(error)


def one_line(error: BaseException) -> str:
    """What an exception says, or its name if it says nothing, on one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def contents(directory: Path) -> str:
    """The names in a directory, for messages."""
    names = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
    return ", ".join(names) or "nothing"


def nbytes(spec: Spec) -> int:
    """How many bytes a tensor takes."""
    return math.prod(spec.shape) * spec.dtype.itemsize


def check_inflation(path: Path, declared: int, size: int | None = None) -> None:
    """Refuse a small file that says it holds very much.

    Args:
        path: the file.
        declared: how many bytes it says that it holds.
        size: how many it has; by default what the system says.

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
    """Refuse names that are no text and shapes that no array can have.

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
