"""An opened checkpoint: what is in it is known at once, values are read one tensor at a time."""

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
    """Device, inode, size and time of the last write of a file: they tell that it was replaced or changed."""

    device: int
    number: int
    size: int
    written: int


def file_state(path: Path) -> FileState | None:
    """The state of a file; None of a directory and of a name that nothing has."""
    try:
        found = path.stat()
    except OSError:
        return None
    if stat.S_ISDIR(found.st_mode):
        return None
    return FileState(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def check_unchanged(path: Path, before: FileState | None) -> None:
    """Refuse a file that was replaced or written to: its header would be that of other values.

    What has lost its name is whole until it is closed.

    Raises:
        CheckpointError: the state is another than before.
    """
    now = file_state(path)
    if before is not None and now is not None and now != before:
        raise CheckpointError(f"{path} was changed while it was read")


@dataclass(frozen=True)
class Reader:
    """A checkpoint that was opened, of any format. It closes itself at the end of a `with` block.

    Attributes:
        path: the file, index or directory.
        format: such as `safetensors`.
        specs: name to shape and dtype.
        metadata: what the file says besides, by name.
        state: of the file when it was opened.
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
        """One tensor, read from the file where the format allows.

        Args:
            name: one of `specs`.

        Returns:
            The array; writing into it changes no file.

        Raises:
            CheckpointError: there is no such tensor, or the file is damaged or another than it was when it was opened.
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
        """Every tensor in turn; none is kept here."""
        for name in self.specs:
            yield name, self.read(name)

    def close(self) -> None:
        """Let go of the file."""
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
