"""A checkpoint opened together with its configuration, each of them read once.

with Source.open("path/to/gpt2") as source:
    source.specs  # shapes and dtypes of the tensors
    source.checked().model  # the model that the configuration describes
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.checkpoints import Reader
from attention_bridge.checkpoints.format_detection import Found
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained.config_files import CONFIGS, find_config, read_json
from attention_bridge.pretrained.families import Reading, read_config
from attention_bridge.pretrained.families.declared import check_sizes
from attention_bridge.pretrained.families.shown import cut
from attention_bridge.weights.leaves import Spec

Config = Mapping[str, Any] | str | os.PathLike[str]


@dataclass(frozen=True)
class Source:
    """An opened checkpoint and its configuration. It closes itself at the end of a `with` block.

    Attributes:
        found: the file that was opened, its format, and the evidence for it.
        reader: the tensors; values are read one tensor at a time.
        config_file: the file of the configuration; None if there is none, or if it was given as a mapping.
        reading: the model, layout and axes that the configuration describes; None if there is none that is understood.
        refusal: why `reading` is None, in one sentence.
    """

    found: Found
    reader: Reader
    config_file: Path | None
    reading: Reading | None
    refusal: str

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        config: Config | None = None,
        *,
        changes: Mapping[str, Any] | None = None,
        ignore: Collection[str] = (),
    ) -> Self:
        """Open a checkpoint, and read its configuration.

        Args:
            path: a file, the index of a sharded checkpoint, or a directory with either.
            config: the configuration, as `config.json` holds it, or its file or directory; None for the one beside
                the checkpoint.
            changes: fields that replace or complete the configuration's.
            ignore: fields of the configuration that are not read.

        Raises:
            CheckpointError: there is no such checkpoint, it is damaged, or the configuration given is not understood.
            InputError: `ignore` is a text.
        """
        if isinstance(ignore, str):
            raise InputError(f"ignore must be a list or tuple of names, got {ignore!r}")
        found = checkpoints.find(path)
        reader = checkpoints.open(found)
        try:
            return cls(found, reader, *_configured(found, reader, config, changes or {}, ignore))
        except CheckpointError:
            reader.close()
            raise

    def with_reader(self, reader: Reader, changes: Mapping[str, Any], ignore: Collection[str]) -> Source:
        """The same checkpoint with other tensors, as with an adapter, and the configuration read for them."""
        return Source(self.found, reader, *_configured(self.found, reader, None, changes, ignore))

    @property
    def path(self) -> Path:
        """The file that was opened."""
        return self.found.path

    @property
    def specs(self) -> dict[str, Spec]:
        """Shape and dtype of each tensor."""
        return self.reader.specs

    def checked(self) -> Reading:
        """The reading of the configuration, if the tensors can have the sizes that it declares.

        Raises:
            CheckpointError: no configuration, one that is not understood, or sizes that no tensor has.
        """
        if self.reading is None:
            raise CheckpointError(self.refusal)
        try:
            check_sizes(self.reading, self.specs, self.config_file or CONFIGS[0])
        except CheckpointError as error:
            raise CheckpointError(cut(str(error))) from error
        return self.reading

    def layout(self) -> str:
        """The name of the layout that the configuration describes.

        Raises:
            CheckpointError: sizes that no tensor has.
            InputError: no configuration, or one that is not understood.
        """
        if self.reading is None:
            reason = "" if self.config_file is None else f" ({self.refusal})"
            raise InputError(
                f"{self.path} has no config.json that gives its layout{reason}: give it with --from; "
                "`attention-bridge inspect` names those that fit"
            )
        return self.checked().layout.name

    def items(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor, one at a time."""
        return self.reader.items()

    def close(self) -> None:
        """Close the checkpoint's files."""
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_config_file(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """The file of a configuration and its content.

    Args:
        path: the file, or the directory that holds it.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    path = Path(path)
    file = (find_config(path) or path / CONFIGS[0]) if path.is_dir() else path
    return file, read_json(file)


def _configured(
    found: Found,
    reader: Reader,
    config: Config | None,
    changes: Mapping[str, Any],
    ignore: Collection[str],
) -> tuple[Path | None, Reading | None, str]:
    """The file of a configuration, its reading, and the reason if there is no reading."""
    names = reader.specs.keys()
    if isinstance(config, Mapping):
        return None, read_config({**config, **changes}, names, ignore=ignore), ""
    if config is not None:
        file, content = read_config_file(config)
        return file, read_config({**content, **changes}, names, file, ignore=ignore), ""
    directory = found.path if found.path.is_dir() else found.path.parent
    beside = find_config(directory)
    if beside is None and not changes:
        reason = f"{directory} has neither {' nor '.join(CONFIGS)}, one of which must describe its model"
        return None, None, reason
    try:
        content = {} if beside is None else read_json(beside)
        reading = read_config({**content, **changes}, names, beside or "config", ignore=ignore)
    except CheckpointError as error:
        if changes or ignore:  # the caller counts on the configuration
            raise
        return beside, None, str(error)
    return beside, reading, ""
