"""Inspection of a checkpoint: its format, possible layouts, model and tensors."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.readers.gguf import may_be_layout
from attention_bridge.pretrained.source import Source
from attention_bridge.weights.detect import Candidate, detect
from attention_bridge.weights.leaves import Spec


@dataclass(frozen=True)
class Inspection:
    """The format, layouts, model and tensors of a checkpoint.

    Attributes:
        path: the file that was opened.
        format: name of the format, such as `safetensors`.
        format_evidence: the evidence for the format, in words.
        layouts: layouts that fit, the most likely first; empty if none fits.
        model: name of the model class in the mirrors; None without a supported configuration.
        description: configuration of that model; None without a supported one.
        config_note: a note on the configuration, such as the reason why it is not supported.
        specs: shape and dtype of each tensor, by name.
    """

    path: Path
    format: str
    format_evidence: str
    layouts: list[Candidate]
    model: str | None
    description: Part | None
    config_note: str
    specs: dict[str, Spec]

    @property
    def parameters(self) -> int:
        """Number of parameters: the elements of all tensors."""
        return sum(prod(spec.shape) for spec in self.specs.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """Number of tensors of each dtype."""
        return dict(Counter(spec.dtype.name for spec in self.specs.values()))


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Inspect a checkpoint without reading its values.

    Args:
        path: a file, the index of a sharded checkpoint, or a directory with either.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged, incomplete or unsafe to read.
    """
    with Source.open(path) as source:
        specs = dict(source.specs)
        layouts = [each for each in detect(specs) if may_be_layout(each.layout, source.reader.metadata)]
    model, description, note = None, None, "no config.json beside it"
    if source.config_file is not None:
        try:
            reading = source.checked()
        except CheckpointError as error:
            note = str(error)
        else:
            model, note = reading.model.name, f"{source.config_file.name} is understood"
            description = reading.model.arguments["config"]
            described = Candidate(reading.layout.name, f"{source.config_file.name} describes such a model")
            layouts = [described, *(other for other in layouts if other.layout != described.layout)]
    found = source.found
    return Inspection(found.path, found.format, found.evidence, layouts, model, description, note, specs)
