"""An opened checkpoint: what is in it is known at once, values are read one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from attention_bridge.checkpoints.faults import check_specs, reading
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec


def _nothing() -> None: ...


@dataclass(frozen=True)
class Reader:
    """A checkpoint that was opened, of any format. It closes itself at the end of a `with` block.

    Attributes:
        path: the file, index or directory.
        format: such as `safetensors`.
        specs: name to shape and dtype.
        metadata: what the file says besides, by name.
    """

    path: Path
    format: str
    specs: dict[str, Spec]
    metadata: Mapping[str, Any]
    fetch: Callable[[str], np.ndarray]
    release: Callable[[], None] = _nothing

    def __post_init__(self) -> None:
        check_specs(self.path, self.specs)

    def read(self, name: str) -> np.ndarray:
        """One tensor, read from the file where the format allows.

        Args:
            name: one of `specs`.

        Returns:
            The array; writing into it changes no file.

        Raises:
            CheckpointError: there is no such tensor, or the file is damaged.
        """
        if name not in self.specs:
            raise CheckpointError(f"{self.path} has no tensor {name}")
        with reading(self.path, f"{self.format} checkpoint"):
            array = self.fetch(name)
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
