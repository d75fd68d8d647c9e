"""Training of a lesson in PyTorch; `in_jax` does the same in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import torch_attention.models
from attention_bridge.errors import InputError
from attention_bridge.training.lessons import IGNORED, Batch, Lesson, State
from attention_bridge.weights import transfer
from attention_bridge.weights.leaves import to_numpy, to_torch
from torch_attention.models.evaluation import evaluate

MOMENTS = ("exp_avg", "exp_avg_sq")


class Learner:
    """A model in training on a lesson, with initial weights from the lesson's seed.

    Attributes:
        framework: name of the framework.
        models: the `models` module of the mirror.
        lesson: the lesson to train.
        done: number of steps taken.
    """

    framework = "torch"
    models = torch_attention.models

    def __init__(self, lesson: Lesson, dtype: str = "float32"):
        self.lesson = lesson
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(lesson.seed)
            model = lesson.build(self.models)  # in float32, so that the weights are the same for every dtype
        self.model = model.to(self.device, getattr(torch, dtype))
        self.dtype = dtype
        self._begin(0)

    def _begin(self, step: int) -> None:
        """Make the optimizer without moments, with the learning rate of a step."""
        told, self.done = self.lesson.optimizer, step
        self.optimizer = torch.optim.AdamW(
            [{"params": list(self.model.parameters()), "initial_lr": told.lr}],
            lr=told.lr,
            betas=told.betas,
            eps=told.eps,
            weight_decay=told.weight_decay,
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda at: told.factor(at, self.lesson.steps), last_epoch=step - 1
        )

    def step(self, batch: Batch) -> float:
        """Take one training step on a batch.

        Returns:
            The loss before the update: mean cross-entropy over the labels that are not `IGNORED`.
        """
        logits = self.lesson.logits(self.model, *map(self.array, batch.inputs))
        labels = torch.from_numpy(batch.labels).to(self.device, torch.int64)
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)
        self.optimizer.zero_grad()
        loss.backward()
        if self.lesson.optimizer.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.lesson.optimizer.max_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.done += 1
        return loss.item()

    def save(self) -> State:
        """A copy of the state of the run, which further steps do not change."""
        weights = {name: np.array(to_numpy(name, x)) for name, x in self.model.state_dict().items()}
        held = [(name, self.optimizer.state[x]) for name, x in self.model.named_parameters()]
        moments = {
            kind: {name: np.array(to_numpy(name, state[kind])) for name, state in held if state}
            for kind in MOMENTS
        }
        return State(self.done, weights, moments if moments[MOMENTS[0]] else {})

    def load(self, state: State) -> None:
        """Resume from the state of a run in either framework.

        Raises:
            ConversionError: the weights are from another model.
            InputError: the moments are from another model.
        """
        parameters = dict(self.model.named_parameters())
        check_moments(state, {name: tuple(x.shape) for name, x in parameters.items()})
        transfer(dict(state.weights), self.model)
        self._begin(state.step)
        for name, x in parameters.items() if state.moments else ():
            moments = {kind: to_torch(state.moments[kind][name]).to(self.device) for kind in MOMENTS}
            self.optimizer.state[x] = {"step": torch.tensor(float(state.step)), **moments}

    def array(self, x: np.ndarray) -> Tensor:
        """Convert a numpy array to the framework; floating-point values are cast to the model's dtype."""
        array = to_torch(x.astype(self.dtype) if x.dtype.kind == "f" else x)
        return array.to(self.device)

    def apply(self, function: Callable[..., Any], *inputs: np.ndarray) -> Any:
        """Evaluate `function(model, *inputs)` without gradients; the array or tuple of arrays is returned in numpy."""
        return in_numpy(evaluate(function, self.model, *map(self.array, inputs)))


def check_moments(state: State, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise unless the moments fit parameters of the given shapes, or there are none.

    Raises:
        InputError: a moment is missing, unexpected or has another shape.
    """
    if not state.moments:
        return
    for kind in MOMENTS:
        held = {name: x.shape for name, x in state.moments.get(kind, {}).items()}
        wrong = sorted(name for name in held | shapes if held.get(name) != shapes.get(name))
        if wrong:
            name = wrong[0]
            raise InputError(
                f"{kind} must fit the parameters of the model, but {name} has shape {held.get(name)} in {kind} "
                f"and {shapes.get(name)} in the model"
            )


def in_numpy(result: Any) -> Any:
    """Convert an array or a tuple of arrays to numpy."""
    return tuple(map(in_numpy, result)) if isinstance(result, tuple) else to_numpy("the result", result)
