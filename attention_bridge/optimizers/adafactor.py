"""Adafactor's steps in optax, as `torch.optim.Adafactor` computes them."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from attention_bridge.optimizers.matrices import Matrices, Matrix
from attention_bridge.optimizers.names import leaf_name
from attention_bridge.optimizers.steps import Rate

Scheduled: TypeAlias = optax.ScaleByScheduleState | optax.EmptyState


class AdafactorState(NamedTuple):
    """The moments of `torch_adafactor`. Axes over which a mean is taken have size 1; so do all axes of absent moments.

    Attributes:
        count: number of steps taken.
        row: moving average of the squared gradients' mean over the columns of each matrix.
        column: moving average of their mean over the rows of each matrix.
        variance: moving average of the squared gradients of other parameters.
    """

    count: jax.typing.ArrayLike  # type: ignore[assignment]  # optax's name, which hides `tuple.count`
    row: optax.Updates
    column: optax.Updates
    variance: optax.Updates


def torch_adafactor(
    lr: Rate,
    matrices: Matrices,
    *,
    decay: float,
    eps: tuple[float | None, float],
    clipping: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    """Adafactor's steps as in `torch.optim.Adafactor`, minus sign and learning rate included.

    `optax.adafactor` adds eps to the squared gradients, factors the two largest axes if both have 128 elements or more,
    and takes no relative step min(lr, 1 / sqrt(t)); PyTorch bounds the variance and its root by eps, and factors the
    last two axes of every parameter that has them. Source: Shazeer and Stern, "Adafactor: adaptive learning rates with
    sublinear memory cost", 2018.

    Args:
        lr: largest relative step, and the factor of the weight decay; or a schedule of it.
        matrices: the rows and columns of each leaf.
        decay: exponent of the step count t in the weight t^decay of new squared gradients.
        eps: least root of the variance, None for the epsilon of the dtype; and least root mean square of a parameter.
        clipping: largest root mean square of an update.
        weight_decay: factor of the decoupled weight decay.

    Returns:
        A transformation whose state is an `AdafactorState`, and the state of the schedule if there is one.
    """

    def init(params: optax.Params) -> tuple[AdafactorState, Scheduled]:
        moments = AdafactorState(jnp.zeros([], jnp.int32), *factored_zeros(params, matrices))
        return moments, scheduled_start(lr)

    def update(
        updates: optax.Updates, state: tuple[AdafactorState, Scheduled], params: optax.Params | None = None
    ) -> tuple[optax.Updates, tuple[AdafactorState, Scheduled]]:
        moments, scheduled = state
        rate, scheduled = scheduled_rate(lr, scheduled)
        count = optax.safe_increment(moments.count)
        weight = count.astype(float) ** decay
        squares = jax.tree.map(jnp.square, updates)
        row, column, variance = factored_means(
            squares, (moments.row, moments.column, moments.variance), weight, matrices
        )

        def direct(path: tuple[Any, ...], g: Any, r: Any, c: Any, v: Any, p: Any) -> jax.Array:
            matrix = matrices[leaf_name(path)]
            least = jnp.finfo(p.dtype).eps if eps[0] is None else eps[0]
            if matrix is not None:
                v = r * c / jnp.maximum(jnp.mean(r, matrix.rows, keepdims=True), least)
            u = g * jax.lax.rsqrt(jnp.maximum(v, least * least))
            step = jnp.minimum(rate, 1 / jnp.sqrt(count.astype(float))) * jnp.maximum(rms(p), eps[1])
            u = u / jnp.maximum(1.0, rms(u) / clipping)
            return (-step * u - rate * weight_decay * p).astype(p.dtype)

        steps = jax.tree_util.tree_map_with_path(direct, updates, row, column, variance, params)
        return steps, (AdafactorState(count, row, column, variance), scheduled)

    return optax.GradientTransformation(init, update)


def factored_zeros(params: optax.Params, matrices: Matrices) -> tuple[Any, Any, Any]:
    """Zeros for the mean over columns, the mean over rows, and the full moment; see `AdafactorState`."""

    def shaped(choose: Any) -> Any:
        def zeros(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
            gone = choose(matrices[leaf_name(path)], tuple(range(x.ndim)))
            return jnp.zeros([1 if axis in gone else n for axis, n in enumerate(x.shape)], x.dtype)

        return jax.tree_util.tree_map_with_path(zeros, params)

    return (
        shaped(lambda matrix, every: matrix.columns if matrix else every),
        shaped(lambda matrix, every: matrix.rows if matrix else every),
        shaped(lambda matrix, every: every if matrix else ()),
    )


def factored_means(
    squares: optax.Updates, moments: tuple[Any, Any, Any], weight: jax.Array, matrices: Matrices
) -> tuple[Any, Any, Any]:
    """Average squared gradients into factored moments: `weight` is the weight of the new ones."""

    def averaged(moment: Any, applies: Any) -> Any:
        def mean(path: tuple[Any, ...], square: jax.Array, old: jax.Array) -> jax.Array:
            axes = applies(matrices[leaf_name(path)])
            if axes is None:
                return old
            return (old + weight * (jnp.mean(square, axes, keepdims=True) - old)).astype(old.dtype)

        return jax.tree_util.tree_map_with_path(mean, squares, moment)

    def over(role: str) -> Any:
        def axes(matrix: Matrix | None) -> tuple[int, ...] | None:
            return None if matrix is None else getattr(matrix, role)

        return axes

    row, column, full = moments
    return (
        averaged(row, over("columns")),
        averaged(column, over("rows")),
        averaged(full, lambda matrix: () if matrix is None else None),
    )


def scheduled_start(lr: Rate | None) -> Scheduled:
    """The state of a schedule, or the empty state for a constant."""
    return optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)) if callable(lr) else optax.EmptyState()


def scheduled_rate(lr: Any, state: Any) -> tuple[Any, Any]:
    """The learning rate of this step, and the next state of its schedule."""
    if not callable(lr):
        return lr, state
    return lr(state.count), optax.ScaleByScheduleState(optax.safe_increment(state.count))


def rms(x: jax.Array) -> jax.Array:
    """Root mean square of all elements."""
    return jnp.sqrt(jnp.mean(jnp.square(x)))
