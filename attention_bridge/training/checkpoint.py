"""Checkpoints of training runs for either framework: one safetensors file, replaced atomically."""

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
    """Checkpoint of a training run.

    Attributes:
        state: state of the run.
        losses: losses of the steps taken, `(step)`.
        taken_by: each framework that took steps, with its first step, in order.
    """

    state: State
    losses: np.ndarray
    taken_by: tuple[tuple[str, int], ...]


def write_checkpoint(path: str | os.PathLike[str], lesson: Lesson, given: Checkpoint) -> None:
    """Write a checkpoint of a lesson; an existing file stays until the new one is complete.

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
    """Read a checkpoint of a lesson.

    Args:
        path: file of the checkpoint.
        lesson: the lesson to resume.
        dtype: dtype that the run must have.

    Raises:
        CheckpointError: the file is missing or damaged, or is from another lesson, model or dtype.
    """
    with checkpoints.open(path) as reader:
        metadata = reader.metadata
        if set(metadata) != {"lesson", "configuration", "taken_by"} or LOSSES not in reader.specs:
            raise CheckpointError(
                f"{path} is not a checkpoint of a training run: it holds no losses of a lesson"
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
            raise CheckpointError(f"{path} is from a run in {x.dtype}, but this run is in {dtype}")
    state = State(len(losses), groups.pop(WEIGHTS, {}), groups)
    return Checkpoint(state, losses, tuple((framework, first) for framework, first in taken_by))


def _check(path: Any, lesson: Lesson, name: str, configuration: Mapping[str, Any]) -> None:
    if name != lesson.name:
        raise CheckpointError(f"{path} is a checkpoint of {name}, but this run trains {lesson.name}")
    expected = json.loads(json.dumps(lesson.identity))
    for key in expected | dict(configuration):
        there, here = configuration.get(key), expected.get(key)
        if there != here:
            raise CheckpointError(f"{path} is from a run with {key} {there}, but this run has {key} {here}")
