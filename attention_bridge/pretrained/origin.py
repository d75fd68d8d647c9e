"""The checkpoint that a model was loaded from, so that it can be saved with the same names, bytes and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from attention_bridge.checkpoints.form import Form
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.adapters import Adapter
from attention_bridge.pretrained.companions import files_beside
from attention_bridge.pretrained.config_files import CONFIGS
from attention_bridge.pretrained.families import Reading, read_config
from attention_bridge.pretrained.families.shown import listed
from attention_bridge.pretrained.source import Source
from attention_bridge.weights.layout import Layout, entry_for
from attention_bridge.weights.leaves import Spec
from attention_bridge.weights.report import Report


@dataclass(frozen=True, eq=False)
class Origin:
    """The checkpoint that a model was loaded from, without the values that are in the model.

    Attributes:
        path: directory of the checkpoint.
        reading: the model, layout and axes that its configuration describes.
        config: content of the configuration; empty if it was not a file.
        config_name: name of its file.
        fields: fields of the configuration, as they were read.
        form: files, headers and order of tensors; None for formats that are only read.
        specs: shape and dtype of each tensor, by its name in the file.
        names: name in the file for each name in the spelling of the layout.
        kept: tensors that the model does not have, by their name in the file.
        constants: names of tensors whose value the layout defines.
        repeated: name of the tensor that each repeated tensor repeats.
        dtype: dtype of the model's weights after loading.
        as_stored: whether the weights have the dtype of the file, apart from widening if it has several.
        files: content of the files beside the weights, by their path in the directory.
        adapter: LoRA adapter that is kept apart in the model; None for none.
    """

    path: Path
    reading: Reading
    config: bytes
    config_name: str
    fields: Mapping[str, Any]
    form: Form | None
    specs: Mapping[str, Spec]
    names: Mapping[str, str]
    kept: Mapping[str, np.ndarray]
    constants: frozenset[str]
    repeated: Mapping[str, str]
    dtype: str
    as_stored: bool
    files: Mapping[str, bytes]
    adapter: Adapter | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @classmethod
    def of(
        cls,
        opened: Source,
        reading: Reading,
        report: Report,
        dtype: str,
        as_stored: bool,
        adapter: Adapter | None = None,
    ) -> Self:
        """The origin of a model whose weights were converted from an opened checkpoint.

        Args:
            opened: the checkpoint.
            reading: its configuration.
            report: the conversion.
            dtype: dtype of the model's weights.
            as_stored: whether no other dtype was asked for.
            adapter: adapter that is kept apart in the model; None for none.
        """
        layout = reading.layout
        names = {layout.canonical(name): name for name in opened.specs}
        ignored = {note.name: layout.canonical(note.name) for note in report.ignored}
        tied = {name: entry_for(spelled, layout.tied) for name, spelled in ignored.items()}
        repeated = {name: names[entry.to] for name, entry in tied.items() if entry is not None}
        constants = frozenset(
            name for name, spelled in ignored.items() if entry_for(spelled, layout.constants) is not None
        )
        lost = ignored.keys() - repeated.keys() - constants
        file = opened.config_file
        written = file if file is not None and file.suffix == ".json" else None  # GGUF files hold their own
        directory = opened.path if opened.path.is_dir() else opened.path.parent
        fields = opened.fields
        if opened.found.format == "gguf":  # which is only read: it is saved as transformers writes the model
            reading, fields, names = _of_transformers(reading, fields, names)
        return cls(
            path=directory,
            reading=reading,
            config=b"" if written is None else written.read_bytes(),
            config_name=CONFIGS[0] if written is None else written.name,
            fields=fields,
            form=None if opened.is_dequantised or opened.is_renamed else Form.of(opened.found, opened.reader),
            specs=dict(opened.specs),
            names=names,
            kept={name: opened.reader.read(name) for name in opened.specs if name in lost},
            constants=constants,
            repeated=repeated,
            dtype=dtype,
            as_stored=as_stored,
            files=files_beside(directory),
            adapter=adapter,
        )

    def is_config(self, fields: Mapping[str, Any]) -> bool:
        """Whether these are the fields in the file of the configuration."""
        return bool(self.config) and json.loads(self.config) == dict(fields)

    def unused(self) -> list[str]:
        """Names of the tensors that another model of the family has, such as another task head."""
        layout: Layout = self.reading.layout
        return [name for name in self.kept if entry_for(layout.canonical(name), layout.dropped) is None]

    def warning(self) -> str | None:
        """One sentence about the tensors that the model does not have; None if it has all."""
        names = self.unused()
        if not names:
            return None
        model = self.reading.model.name
        return (
            f"{self.path} has tensors that this {model} does not use: {listed(names)}; "
            "save_pretrained writes them again"
        )


def _of_transformers(
    reading: Reading, fields: Mapping[str, Any], names: dict[str, str]
) -> tuple[Reading, Mapping[str, Any], dict[str, str]]:
    """The same model with the names and the configuration of transformers; as given if these describe another model."""
    changed = {**fields, "model_type": str(fields.get("model_type")).removeprefix("gguf.")}
    try:
        found = read_config(changed)
    except CheckpointError:
        return reading, fields, names
    return (found, changed, {}) if found.model == reading.model else (reading, fields, names)
