"""Training tasks (lessons): model, batches and optimizer, defined once for both frameworks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from attention_bridge.errors import InputError

IGNORED = -100  # label that the loss ignores, such as the label of padding


class Batch(NamedTuple):
    """Batch of one training step in numpy, the same for both frameworks.

    Attributes:
        inputs: arguments of the model, one array each.
        labels: integers, the correct class at each position, or `IGNORED`.
    """

    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov & Hutter 2019) with linear warm-up and cosine decay of the learning rate.

    Attributes:
        lr: largest learning rate.
        betas: decay rates of the first and the second moment.
        eps: term added to the root of the second moment.
        weight_decay: decoupled weight decay of all parameters, multiplied by the learning rate.
        warmup: number of steps in which the learning rate rises to `lr`.
        final: learning rate after the last step as a fraction of `lr`; 1 for no decay.
        max_norm: bound on the global gradient norm, for clipping; None for no clipping.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    warmup: int = 0
    final: float = 0.0
    max_norm: float | None = None

    def factor(self, step: int, steps: int) -> float:
        """Factor on `lr` at a step, counted from 0, in a run of `steps` steps."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        done = max(0, step - self.warmup) / max(1, steps - self.warmup)
        return rise * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@dataclass(frozen=True, eq=False)
class Lesson:
    """A training task: a model with its batches and optimizer.

    Attributes:
        name: name of the lesson in pictures and checkpoints.
        build: function that builds the model from a mirror's `models` module; in JAX it also gets `rngs` and
            `param_dtype`.
        logits: function from the model and the inputs of a batch to logits `(..., classes)`, one row per label.
        batch: function from the number of a step, counted from 0, to its batch; it must be deterministic.
        steps: number of training steps.
        optimizer: hyperparameters of AdamW.
        seed: seed of the initial weights.
        configuration: further values that define the lesson, such as model sizes, as JSON values. A checkpoint can be
            resumed only by a lesson with the same configuration.
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
        """The values that a checkpoint stores to recognise this lesson."""
        return {"steps": self.steps, "seed": self.seed, **vars(self.optimizer), **self.configuration}


class State(NamedTuple):
    """State of a training run in numpy, from which either framework can resume it.

    Attributes:
        step: number of steps taken.
        weights: weights of the model, with the names and the layout of the PyTorch mirror.
        moments: moments of the optimizer, `exp_avg` and `exp_avg_sq`, each by the parameter's name in `weights`; empty
            before the first step.
    """

    step: int
    weights: Mapping[str, np.ndarray]
    moments: Mapping[str, Mapping[str, np.ndarray]]


def check_until(lesson: Lesson, done: int, until: int) -> None:
    """Raise unless a run of `lesson` can continue from step `done` to step `until`.

    Raises:
        InputError: the lesson has no such step, or the run is past it.
    """
    if not done <= until <= lesson.steps:
        raise InputError(f"until must be from {done} to steps, {lesson.steps}, got {until}")
