"""Adafactor's steps in optax, as `transformers.Adafactor` computes them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from attention_bridge.optimizers.adafactor import (
    Scheduled,
    factored_means,
    factored_zeros,
    rms,
    scheduled_rate,
    scheduled_start,
)
from attention_bridge.optimizers.matrices import Matrices
from attention_bridge.optimizers.names import leaf_name
from attention_bridge.optimizers.steps import Rate


class RelativeAdafactorState(NamedTuple):
    """The moments of `transformers_adafactor`; axes of size 1 as in `AdafactorState`.

    Attributes:
        count: number of steps taken.
        row: moving average of the squared gradients' mean over the columns of each matrix.
        column: moving average of their mean over the rows of each matrix.
        variance: moving average of the squared gradients of other parameters.
        size: root mean square of each parameter before the last step.
    """

    count: jax.typing.ArrayLike  # type: ignore[assignment]  # optax's name, which hides `tuple.count`
    row: optax.Updates
    column: optax.Updates
    variance: optax.Updates
    size: optax.Updates


class AveragedAdafactorState(NamedTuple):
    """The moments of `transformers_adafactor` with `beta1`.

    Attributes:
        count: number of steps taken.
        row, column, variance, size: as in `RelativeAdafactorState`.
        mu: moving average of the steps.
    """

    count: jax.typing.ArrayLike  # type: ignore[assignment]  # optax's name, which hides `tuple.count`
    row: optax.Updates
    column: optax.Updates
    variance: optax.Updates
    size: optax.Updates
    mu: optax.Updates


def transformers_adafactor(
    lr: Rate | None,
    matrices: Matrices,
    *,
    decay: float,
    eps: tuple[float, float],
    clipping: float,
    beta1: float | None,
    weight_decay: float,
    scaled: bool,
    warmup: bool,
) -> optax.GradientTransformation:
    """Adafactor's steps as in `transformers.Adafactor`, minus sign and learning rate included.

    `optax.adafactor` factors the two largest axes if both have 128 elements or more, scales steps after their momentum,
    and takes no relative step; `transformers` factors the last two axes of every parameter that has them.

    Args:
        lr: learning rate, or a schedule of it; None for the relative step min(1e-2, 1 / sqrt(t)).
        matrices: the rows and columns of each leaf.
        decay: exponent of the step count t in the weight t^decay of new squared gradients.
        eps: added to the squared gradients; and least root mean square of a parameter.
        clipping: largest root mean square of an update.
        beta1: decay rate of the moving average of the steps; None for no average.
        weight_decay: factor of the weight decay, which is also multiplied by the step size.
        scaled: whether the step size is proportional to the root mean square of the parameter.
        warmup: whether the relative step is min(1e-6 t, 1 / sqrt(t)).

    Returns:
        A transformation whose state is a `RelativeAdafactorState`, or with `beta1` an `AveragedAdafactorState`; and the
        state of the schedule if there is one.
    """

    def init(params: optax.Params) -> tuple[Any, Scheduled]:
        sizes = jax.tree.map(lambda x: jnp.zeros((1,) * x.ndim, x.dtype), params)
        moments = (jnp.zeros([], jnp.int32), *factored_zeros(params, matrices), sizes)
        if beta1 is None:
            return RelativeAdafactorState(*moments), scheduled_start(lr)
        return AveragedAdafactorState(*moments, optax.tree.zeros_like(params)), scheduled_start(lr)

    def update(
        updates: optax.Updates, state: tuple[Any, Scheduled], params: optax.Params | None = None
    ) -> tuple[optax.Updates, tuple[Any, Scheduled]]:
        held, scheduled = state
        rate, scheduled = scheduled_rate(lr, scheduled)
        count = optax.safe_increment(held.count)
        time = count.astype(float)
        if rate is None:
            rate = jnp.minimum(1e-6 * time if warmup else 1e-2, 1 / jnp.sqrt(time))
        squares = jax.tree.map(lambda g: jnp.square(g) + eps[0], updates)
        moments = factored_means(squares, (held.row, held.column, held.variance), time**decay, matrices)
        sizes = jax.tree.map(lambda p: jnp.reshape(rms(p), (1,) * p.ndim), params)
        rates = jax.tree.map(lambda size: rate * jnp.maximum(size, eps[1]) if scaled else rate, sizes)

        def direct(path: tuple[Any, ...], g: Any, r: Any, c: Any, v: Any, step: Any) -> jax.Array:
            matrix = matrices[leaf_name(path)]
            if matrix is None:
                u = g * jax.lax.rsqrt(v)
            else:
                u = g * jax.lax.rsqrt(r / jnp.mean(r, matrix.rows, keepdims=True)) * jax.lax.rsqrt(c)
            return (step * u / jnp.maximum(1.0, rms(u) / clipping)).astype(g.dtype)

        steps = jax.tree_util.tree_map_with_path(direct, updates, *moments, rates)
        after: Any = RelativeAdafactorState(count, *moments, sizes)
        if beta1 is not None:
            steps = jax.tree.map(lambda u, m: beta1 * m + (1 - beta1) * u, steps, held.mu)
            after = AveragedAdafactorState(count, *moments, sizes, steps)
        steps = jax.tree.map(
            lambda u, p, step: (-u - weight_decay * step * p).astype(p.dtype), steps, params, rates
        )
        return steps, (after, scheduled)

    return optax.GradientTransformation(init, update)
