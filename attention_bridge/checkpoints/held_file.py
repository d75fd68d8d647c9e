"""A file that a library writes which does not survive errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from attention_bridge.checkpoints.faults import writing


class HeldFile:
    """A new file for HDF5, which ends the process when it cannot write or is interrupted.

    The first error is held back and HDF5 told that all was written; `raising` raises the error.

    Args:
        path: the file; what has that name is overwritten.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("w+b", buffering=0)
        self.error: BaseException | None = None

    @contextmanager
    def raising(self, path: Path) -> Iterator[None]:
        """Raise the error that was held back while the block ran, if there was one, or what the library raised itself.

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
        """Make the file so long."""
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
        """Read what was written."""
        return self.file.read(size) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """Where it is."""
        return self.file.tell()

    def flush(self) -> None:
        """Do nothing: nothing is held in memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
