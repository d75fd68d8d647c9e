"""A checkpoint opened together with its configuration, each of them read once.

with Source.open("path/to/gpt2") as source:
    source.specs  # shapes and dtypes of the tensors
    source.checked().model  # the model that the configuration describes
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.checkpoints import Reader
from attention_bridge.checkpoints.flax_names import in_pytorch_names
from attention_bridge.checkpoints.format_detection import Found
from attention_bridge.checkpoints.quantised import surplus_bias, unquantised
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained.config_files import CONFIGS, find_config, read_json
from attention_bridge.pretrained.families import Reading, read_config
from attention_bridge.pretrained.families.declared import check_sizes
from attention_bridge.pretrained.families.readers.gguf import gguf_config
from attention_bridge.pretrained.families.shown import cut
from attention_bridge.pretrained.families.tasks import check_task
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.torch_attention import TORCH_ATTENTION
from attention_bridge.weights.leaves import Spec

QUANTISATION = "quantization_config"
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
        fields: fields of the configuration, as they were read; empty if there is none.
        is_dequantised: whether the reader dequantises the tensors of the file.
        is_renamed: whether the reader gives the tensors of a Flax file with the names and axes of PyTorch.
    """

    found: Found
    reader: Reader
    config_file: Path | None
    reading: Reading | None
    refusal: str
    fields: Mapping[str, Any]
    is_dequantised: bool = False
    is_renamed: bool = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        config: Config | None = None,
        *,
        changes: Mapping[str, Any] | None = None,
        ignore: Collection[str] = (),
        task: str | None = None,
        adapt: Callable[..., Reader] | None = None,
    ) -> Self:
        """Open a checkpoint, and read its configuration.

        Args:
            path: a file, the index of a sharded checkpoint, or a directory with either.
            config: the configuration, as `config.json` holds it, or its file or directory; None for the one beside
                the checkpoint.
            changes: fields that replace or complete the configuration's.
            ignore: fields of the configuration that are not read.
            task: task of the model, such as "fill-mask"; None for the head that the checkpoint has.
            adapt: function of the reader and `layout` that returns a reader with an adapter's updates; None for no
                adapter.

        Raises:
            CheckpointError: there is no such checkpoint, it is damaged, or the configuration given is not understood.
            InputError: `ignore` is a text, or `task` is unknown.
        """
        check_task(task)
        if isinstance(ignore, str):
            raise InputError(f"ignore must be a list or tuple of names, got {ignore!r}")
        found = checkpoints.find(path)
        stored = checkpoints.open(found)
        insists = config is not None or bool(
            changes or ignore or task
        )  # the caller counts on the configuration
        given = _Given(None, {})
        try:
            given = _given(found, stored, config, changes or {}, ignore)
            if given.refusal:
                return cls(found, stored, None, None, given.refusal, {})
            return cls._read(found, stored, given, ignore, task, adapt)
        except CheckpointError as error:
            if insists:
                stored.close()
                raise
            file = given.file or _config_file(found)
            return cls(found, stored, file, None, str(error), given.fields)

    @classmethod
    def _read(
        cls,
        found: Found,
        stored: Reader,
        given: _Given,
        ignore: Collection[str],
        task: str | None,
        adapt: Callable[..., Reader] | None,
    ) -> Self:
        """The opened checkpoint with the reading of its configuration; quantised tensors are dequantised."""
        source = given.file or "config"
        reader = unquantised(stored, given.fields, source)
        fields = given.fields
        if reader is not stored:
            fields = {name: x for name, x in fields.items() if name != QUANTISATION}
        is_dequantised = reader is not stored

        def understood(reader: Reader) -> Reading:
            return read_config(fields, Tensors(reader.specs, reader.read), source, ignore=ignore, task=task)

        renamed = in_pytorch_names(reader)
        is_renamed = renamed is not reader and _is_of(understood(renamed).layout, renamed)
        reader = renamed if is_renamed else reader
        reading = understood(reader)
        if is_dequantised:
            reader = _without_surplus(reader, reading.layout)
        if adapt is not None:  # an adapter may bring a task head
            reader = adapt(reader, layout=reading.layout)
            reading = understood(reader)
        return cls(found, reader, given.file, reading, "", fields, is_dequantised, is_renamed)

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


def _config_file(found: Found) -> Path | None:
    """The file with the configuration of a checkpoint: a GGUF file itself, else the one beside it; None for none."""
    if found.format == "gguf":
        return found.path
    return find_config(found.path if found.path.is_dir() else found.path.parent)


class _Given(NamedTuple):
    """The configuration of a checkpoint, before it is understood.

    Attributes:
        file: its file; None for a mapping, or if there is none.
        fields: its fields, with the changes that were asked for.
        refusal: why there are no fields; empty if there are.
    """

    file: Path | None
    fields: Mapping[str, Any]
    refusal: str = ""


def _given(
    found: Found, reader: Reader, config: Config | None, changes: Mapping[str, Any], ignore: Collection[str]
) -> _Given:
    """The configuration that was given, else the one of a GGUF file, else the one beside the checkpoint."""
    if isinstance(config, Mapping):
        return _Given(None, {**config, **changes})
    if config is not None:
        file, content = read_config_file(config)
        return _Given(file, {**content, **changes})
    if found.format == "gguf":
        content = gguf_config(reader.metadata, reader.specs, reader.read, reader.path, ignore=ignore)
        return _Given(reader.path, {**content, **changes})
    directory, beside = found.path if found.path.is_dir() else found.path.parent, _config_file(found)
    if beside is None and not changes:
        reason = f"{directory} has neither {' nor '.join(CONFIGS)}, one of which must describe its model"
        return _Given(None, {}, reason)
    return _Given(beside, {**({} if beside is None else read_json(beside)), **changes})


def _is_of(layout: Layout, reader: Reader) -> bool:
    """Whether a layout of another library has most of the tensors."""
    if layout.name == TORCH_ATTENTION.name:
        return False
    known = sum(layout.has(layout.canonical(name)) for name in reader.specs)
    return 2 * known > len(reader.specs)


def _without_surplus(reader: Reader, layout: Layout) -> Reader:
    """The reader without biases of zeros that quantisation has added to layers that have none in the layout's model."""
    added = {
        name for name in reader.specs if not layout.has(layout.canonical(name)) and surplus_bias(reader, name)
    }
    return replace(reader, specs={name: spec for name, spec in reader.specs.items() if name not in added})
