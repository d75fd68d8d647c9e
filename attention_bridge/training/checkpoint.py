"""A run on disk, as either framework takes it up: one safetensors file, replaced whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError
from attention_bridge.training.lessons import Lesson, State

LOSSES, WEIGHTS = "losses", "weights"


class Checkpoint(NamedTuple):
    """A run so far.

    Attributes:
        state: where it is.
        losses: `(step)`, one for each step taken.
        taken_by: the framework that took the steps, and its first; in order, where it was handed over.
    """

    state: State
    losses: np.ndarray
    taken_by: tuple[tuple[str, int], ...]


def write_checkpoint(path: str | os.PathLike[str], lesson: Lesson, given: Checkpoint) -> None:
    """Write a run of a lesson; an older file stays until this one is complete.

    Raises:
        CheckpointError: the directory does not exist.
        DiskError: the system cannot write.
    """
    tensors = {f"{WEIGHTS}.{name}": x for name, x in given.state.weights.items()}
    for kind, moments in given.state.moments.items():
        tensors |= {f"{kind}.{name}": x for name, x in moments.items()}
    tensors[LOSSES] = np.asarray(given.losses, np.float64)
    said = {"lesson": lesson.name, "configuration": lesson.identity, "taken_by": given.taken_by}
    checkpoints.write(path, tensors, {name: json.dumps(value) for name, value in said.items()})


def read_checkpoint(path: str | os.PathLike[str], lesson: Lesson, dtype: str = "float32") -> Checkpoint:
    """Read a run of a lesson, in a dtype.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another lesson, another model or another dtype.
    """
    with checkpoints.open(path) as reader:
        metadata = reader.metadata
        if set(metadata) != {"lesson", "configuration", "taken_by"} or LOSSES not in reader.specs:
            raise CheckpointError(
                f"{path} is no checkpoint of a training run: it holds no losses of a lesson"
            )
        name, configuration, taken_by = (
            json.loads(metadata[key]) for key in ("lesson", "configuration", "taken_by")
        )
        _check(path, lesson, name, configuration)
        tensors = {name: np.array(x) for name, x in reader.items()}
    losses = tensors.pop(LOSSES)
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, x in tensors.items():
        kind, _, rest = name.partition(".")
        groups.setdefault(kind, {})[rest] = x
        if x.dtype.kind == "f" and x.dtype.name != dtype:
            raise CheckpointError(f"{path} is of a run in {x.dtype}, but this run is in {dtype}")
    state = State(len(losses), groups.pop(WEIGHTS, {}), groups)
    return Checkpoint(state, losses, tuple((framework, first) for framework, first in taken_by))


def _check(path: Any, lesson: Lesson, name: str, configuration: Mapping[str, Any]) -> None:
    if name != lesson.name:
        raise CheckpointError(f"{path} is a checkpoint of {name}, but this run is of {lesson.name}")
    expected = json.loads(json.dumps(lesson.identity))
    for key in expected | dict(configuration):
        there, here = configuration.get(key), expected.get(key)
        if there != here:
            raise CheckpointError(f"{path} is of a run with {key} {there}, but this run has {key} {here}")
