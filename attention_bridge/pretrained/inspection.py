"""What a checkpoint holds: its format, its layout with the evidence, its tensors."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.source import Source
from attention_bridge.weights.detect import Candidate, detect
from attention_bridge.weights.leaves import Spec


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint holds.

    Attributes:
        path: the file that was opened.
        format: such as `safetensors`.
        format_evidence: why it is thought to be that.
        layouts: those that it could have, the likeliest first; empty if none is known.
        model: the class of the mirrors that computes it, if its configuration is understood.
        description: the configuration of that model.
        config_note: what is known of the configuration.
        specs: shape and dtype of each tensor.
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
        """How many numbers there are."""
        return sum(prod(spec.shape) for spec in self.specs.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """How many tensors have each dtype."""
        return dict(Counter(spec.dtype.name for spec in self.specs.values()))


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Look into a checkpoint; no values are read but those that show whether a head repeats the embeddings.

    Args:
        path: a file, the index of a sharded checkpoint, or a directory with either.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged, incomplete or refused.
    """
    with Source.open(path) as source:
        specs = dict(source.specs)
    layouts, model, description, note = detect(specs), None, None, "no config.json beside it"
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
