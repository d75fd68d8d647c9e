"""File object for HDF5 that defers I/O errors, because HDF5 crashes on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from attention_bridge.checkpoints.faults import writing


class HeldFile:
    """A new file for HDF5, which would crash the process when it cannot write or is interrupted.

    The first error is stored, and later writes report success to HDF5; `raising` raises the stored error.

    Args:
        path: file to write; an existing one is overwritten.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("w+b", buffering=0)
        self.error: BaseException | None = None

    @contextmanager
    def raising(self, path: Path) -> Iterator[None]:
        """Raise the error that was stored while the block ran, or the error that the library raised itself.

        Raises:
            DiskError: the system cannot write, or the library fails.
        """
        with writing(path, RuntimeError, ValueError):
            try:
                yield
            finally:
                if self.error is not None:
                    raise self.error

    def write(self, block: memoryview) -> int:
        """Write all of a block."""
        view = memoryview(block).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += self.file.write(view[done:])
        except BaseException as error:
            self.error = error
        return len(view)

    def truncate(self, size: int) -> int:
        """Set the size of the file, in bytes."""
        try:
            if self.error is None:
                self.file.truncate(size)
        except BaseException as error:
            self.error = error
        return size

    def readinto(self, block: memoryview) -> int:
        """Read into a block; bytes that were never written are zeros."""
        return self.file.readinto(block)

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes; -1 reads to the end."""
        return self.file.read(size) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset and return it."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """The current offset."""
        return self.file.tell()

    def flush(self) -> None:
        """Do nothing: writes are unbuffered."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
