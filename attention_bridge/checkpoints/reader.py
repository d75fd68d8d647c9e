"""Opened checkpoints: shapes and dtypes are known at once, values are read one tensor at a time."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from attention_bridge.checkpoints.faults import check_specs, reading
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec


def _nothing() -> None: ...


class FileState(NamedTuple):
    """Device, inode, size and modification time of a file, which show whether it was replaced or changed."""

    device: int
    number: int
    size: int
    written: int


def file_state(path: Path) -> FileState | None:
    """The state of a file; None if the path is a directory or does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    if stat.S_ISDIR(found.st_mode):
        return None
    return FileState(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def check_unchanged(path: Path, before: FileState | None) -> None:
    """Check that a file was neither replaced nor modified since its header was read.

    A deleted file passes: it stays whole until it is closed.

    Args:
        path: the file.
        before: earlier state of the file; None for no check.

    Raises:
        CheckpointError: the state has changed.
    """
    now = file_state(path)
    if before is not None and now is not None and now != before:
        raise CheckpointError(f"{path} was changed while it was read")


@dataclass(frozen=True)
class Reader:
    """An opened checkpoint of any format; a context manager that closes it.

    Attributes:
        path: the file, index or directory.
        format: name of the format, such as `safetensors`.
        specs: shape and dtype of each tensor, by name.
        metadata: other entries of the file, by name.
        fetch: function that reads the values of the tensor of a name.
        release: function that closes the file.
        state: state of the file when it was opened.
    """

    path: Path
    format: str
    specs: dict[str, Spec]
    metadata: Mapping[str, Any]
    fetch: Callable[[str], np.ndarray]
    release: Callable[[], None] = _nothing
    state: FileState | None = field(init=False)

    def __post_init__(self) -> None:
        check_specs(self.path, self.specs)
        object.__setattr__(self, "state", file_state(self.path))

    def read(self, name: str) -> np.ndarray:
        """Read one tensor.

        Args:
            name: name of the tensor, one of `specs`.

        Returns:
            The array; writing into it changes no file.

        Raises:
            CheckpointError: there is no such tensor, or the file is damaged or has changed since it was opened.
        """
        if name not in self.specs:
            raise CheckpointError(f"{self.path} has no tensor {name}")
        with reading(self.path, f"{self.format} checkpoint"):
            array = self.fetch(name)
            check_unchanged(self.path, self.state)
        if (found := Spec(array.shape, array.dtype)) != self.specs[name]:
            raise CheckpointError(f"{self.path} says that {name} is {self.specs[name]}, but it is {found}")
        return array

    def items(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name and array of every tensor; the reader keeps none in memory."""
        for name in self.specs:
            yield name, self.read(name)

    def close(self) -> None:
        """Close the file."""
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
