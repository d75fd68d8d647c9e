"""What a model is to learn: the model, its batches and how it is stepped, said once for both frameworks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from attention_bridge.errors import InputError

IGNORED = -100  # a label that no score is asked of, such as that of padding


class Batch(NamedTuple):
    """What is learnt from in one step, in numpy: both frameworks are given the same.

    Attributes:
        inputs: what the model reads, one array for each of its arguments.
        labels: whole numbers: the right class of each place, or `IGNORED`.
    """

    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov & Hutter 2019) with a learning rate that rises on a line and falls on a cosine.

    Attributes:
        lr: the largest learning rate.
        betas: decay of the first and of the second moment.
        eps: added to the root of the second moment.
        weight_decay: of all parameters, times the learning rate.
        warmup: steps in which the learning rate rises to `lr`.
        final: the learning rate after the last step, as a part of `lr`; 1 for one that does not fall.
        max_norm: of all gradients together, to which they are clipped; None for no clipping.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    warmup: int = 0
    final: float = 0.0
    max_norm: float | None = None

    def factor(self, step: int, steps: int) -> float:
        """By what `lr` is multiplied in a step, counted from 0, of so many."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        done = max(0, step - self.warmup) / max(1, steps - self.warmup)
        return rise * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@dataclass(frozen=True, eq=False)
class Lesson:
    """A model, and all that it learns from.

    Attributes:
        name: what the lesson is called in pictures and checkpoints.
        build: from the `models` of a mirror, and how arrays are made there, to the model.
        logits: from a model and the inputs of a batch to scores `(..., classes)`, one row a label.
        batch: from the number of a step, from 0, to what is learnt in it; the same whenever it is asked.
        steps: how many there are.
        optimizer: how the model is stepped.
        seed: of the weights that the model begins with.
        configuration: what else makes this lesson what it is, sizes of the model above all; values are those of
            JSON. A checkpoint is taken up by a lesson with the same configuration only.
    """

    name: str
    build: Callable[..., Any]
    logits: Callable[..., Any]
    batch: Callable[[int], Batch]
    steps: int
    optimizer: AdamW = AdamW()
    seed: int = 0
    configuration: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint of this lesson says of it."""
        return {"steps": self.steps, "seed": self.seed, **vars(self.optimizer), **self.configuration}


class State(NamedTuple):
    """Where a run is, in numpy: what either framework needs to go on as the other would.

    Attributes:
        step: how many were taken.
        weights: of the model, as the PyTorch mirror names and lays them out.
        moments: of the optimizer, `exp_avg` and `exp_avg_sq`, each by name of the parameter as in `weights`; empty
            before the first step.
    """

    step: int
    weights: Mapping[str, np.ndarray]
    moments: Mapping[str, Mapping[str, np.ndarray]]


def check_until(lesson: Lesson, done: int, until: int) -> None:
    """Raise unless a run of `lesson` can go on from step `done` to step `until`.

    Raises:
        InputError: the lesson has no such step, or it was taken.
    """
    if not done <= until <= lesson.steps:
        raise InputError(f"until must be from {done} to steps, {lesson.steps}, got {until}")
