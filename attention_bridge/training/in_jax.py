"""Training of a lesson in JAX; `in_torch` does the same in PyTorch.

Initial weights and optimizer are converted from a PyTorch learner, the twin. Saving converts them back into the twin,
so every run is saved in PyTorch's layout and can be resumed in either framework.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jax_attention.models
from attention_bridge.errors import InputError
from attention_bridge.optimizers import optimizer_like, optimizer_state_to_optax, optimizer_state_to_torch
from attention_bridge.training import in_torch
from attention_bridge.training.lessons import IGNORED, Batch, Lesson, State
from attention_bridge.weights import transfer
from jax_attention.models.evaluation import evaluate


class Learner:
    """A model in training on a lesson, with initial weights from the lesson's seed.

    Attributes:
        framework: name of the framework.
        models: the `models` module of the mirror.
        lesson: the lesson to train.
        done: number of steps taken.
    """

    framework = "jax"
    models = jax_attention.models

    def __init__(self, lesson: Lesson, dtype: str = "float32"):
        if dtype == "float64" and jnp.zeros(()).dtype != dtype:
            raise InputError(
                f"dtype {dtype} needs 64-bit numbers in JAX: set JAX_ENABLE_X64=1 before it is imported"
            )
        self.lesson, self.dtype = lesson, dtype
        self.twin = in_torch.Learner(lesson, dtype)
        self.rule = optimizer_like(
            self.twin.optimizer,
            model=self.twin.model,
            scheduler=self.twin.scheduler,
            steps=lesson.steps,
            max_norm=lesson.optimizer.max_norm,
        )
        self.blank = lesson.build(self.models, rngs=nnx.Rngs(0), param_dtype=dtype)
        self._begin()

    def _begin(self) -> None:
        """Convert model and optimizer state from the twin."""
        self.done = self.twin.done
        model = transfer(self.twin.model, self.blank)
        self.graphdef, *states = nnx.split(model, nnx.Param, ...)
        params, self.rest = states
        state = optimizer_state_to_optax(
            self.twin.optimizer, self.twin.model, self.rule, params, scheduler=self.twin.scheduler
        )
        # A step donates its input arrays, which may share memory with the twin.
        self.params, self.state = jax.tree.map(jnp.copy, (params, state))

    def step(self, batch: Batch) -> float:
        """Take one training step on a batch.

        Returns:
            The loss before the update: mean cross-entropy over the labels that are not `IGNORED`.
        """
        inputs, labels = tuple(map(self.array, batch.inputs)), jnp.asarray(batch.labels, jnp.int32)
        fixed = (self.lesson.logits, self.rule, self.graphdef)
        with jax.default_matmul_precision("highest"):  # as in PyTorch; by default a TPU rounds to bfloat16
            self.params, self.state, loss = _step(*fixed, self.params, self.state, self.rest, inputs, labels)
        self.done += 1
        return float(loss)

    @property
    def model(self) -> nnx.Module:
        """A copy of the current model, which further steps do not change."""
        return nnx.merge(self.graphdef, jax.tree.map(jnp.copy, self.params), self.rest)

    def save(self) -> State:
        """A copy of the state of the run, which further steps do not change."""
        twin = self.twin
        optimizer_state_to_torch(
            self.state, self.params, twin.optimizer, twin.model, scheduler=twin.scheduler
        )
        transfer(self.model, twin.model)
        twin.done = self.done
        return twin.save()

    def load(self, state: State) -> None:
        """Resume from the state of a run in either framework.

        Raises:
            ConversionError: the weights are from another model.
            InputError: the moments are from another model.
        """
        self.twin.load(state)
        self._begin()

    def array(self, x: np.ndarray) -> jax.Array:
        """Convert a numpy array to the framework; floating-point values are cast to the model's dtype."""
        return jnp.asarray(x, self.dtype if x.dtype.kind == "f" else None)

    def apply(self, function: Callable[..., Any], *inputs: np.ndarray) -> Any:
        """Evaluate `function(model, *inputs)` without gradients; the array or tuple of arrays is returned in numpy."""
        return in_torch.in_numpy(evaluate(function, self.model, *map(self.array, inputs)))


@partial(jax.jit, static_argnames=("logits", "rule", "graphdef"), donate_argnames=("params", "state"))
def _step(
    logits: Callable[..., Any],
    rule: optax.GradientTransformation,
    graphdef: Any,
    params: Any,
    state: Any,
    rest: Any,
    inputs: tuple[jax.Array, ...],
    labels: jax.Array,
) -> tuple[Any, Any, jax.Array]:
    counted = labels != IGNORED

    def loss_of(params: Any) -> jax.Array:
        scores = logits(nnx.merge(graphdef, params, rest), *inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.where(counted, labels, 0))
        return losses.mean(where=counted)

    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, state = rule.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, loss
