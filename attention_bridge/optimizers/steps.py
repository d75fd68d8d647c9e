"""Optax transformations for update rules of PyTorch's optimizers that optax lacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

Rate: TypeAlias = float | Callable[[jax.typing.ArrayLike], jax.Array]


class StartedTraceState(NamedTuple):
    """The state of `trace_from_first`.

    Attributes:
        count: number of steps taken, the index of a scheduled decay.
        started: whether the trace contains a gradient yet.
        trace: momentum buffer of each parameter.
    """

    count: jax.typing.ArrayLike  # type: ignore[assignment]  # optax's name, which hides `tuple.count`
    started: jax.typing.ArrayLike
    trace: optax.Updates


def scale_by_torch_adam(
    b1: Rate, b2: float, eps: float, *, amsgrad: bool = False
) -> optax.GradientTransformation:
    """Adam's update direction as in `torch.optim.Adam`: m / (1 - b1^t) / (sqrt(v) / sqrt(1 - b2^t) + eps).

    `optax.scale_by_adam` has the same formula, but computes b^t in the parameters' precision: in float32,
    1 - 0.999^t loses five digits at the first step. PyTorch computes it in double precision.
    `optax.scale_by_amsgrad` takes the maximum of bias-corrected second moments, or corrects none; PyTorch takes the
    maximum first and corrects it.

    Args:
        b1: decay rate of the first moment, or a schedule of it.
        b2: decay rate of the second moment.
        eps: added to the square root.
        amsgrad: whether to use the largest second moment so far.

    Returns:
        A transformation whose state is optax's own `ScaleByAdamState` or `ScaleByAmsgradState`.
    """

    def init(params: optax.Params) -> optax.OptState:
        count, zeros = jnp.zeros([], jnp.int32), optax.tree.zeros_like
        if amsgrad:
            return optax.ScaleByAmsgradState(count, zeros(params), zeros(params), zeros(params))
        return optax.ScaleByAdamState(count, zeros(params), zeros(params))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        count = optax.safe_increment(state.count)
        first = b1(state.count) if callable(b1) else b1
        correction = _one_minus_power(first, count)
        root = jnp.sqrt(_one_minus_power(b2, count))
        mu = jax.tree.map(lambda g, m: (m + (1 - first) * (g - m)).astype(m.dtype), updates, state.mu)
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * g * g, updates, state.nu)
        largest = jax.tree.map(jnp.maximum, state.nu_max, nu) if amsgrad else nu
        direction = jax.tree.map(
            lambda m, v: (m / correction / (jnp.sqrt(v) / root + eps)).astype(m.dtype), mu, largest
        )
        moments = (mu, nu, largest) if amsgrad else (mu, nu)
        return direction, type(state)(count, *moments)

    return optax.GradientTransformation(init, update)


def trace_from_first(
    decay: Rate, *, dampening: float = 0.0, nesterov: bool = False
) -> optax.GradientTransformation:
    """Momentum as in `torch.optim.SGD`: the first gradient undampened, then decay * trace + (1 - dampening) * g.

    `optax.trace` has no dampening and no schedule of its decay; without either, the two are equal.

    Args:
        decay: decay rate of the trace, or a schedule of it.
        dampening: fraction of each gradient, except the first, that is left out.
        nesterov: whether to use Nesterov momentum.

    Returns:
        A transformation with a `StartedTraceState`.
    """

    def init(params: optax.Params) -> StartedTraceState:
        return StartedTraceState(jnp.zeros([], jnp.int32), jnp.asarray(False), optax.tree.zeros_like(params))

    def update(
        updates: optax.Updates, state: StartedTraceState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, StartedTraceState]:
        kept = decay(state.count) if callable(decay) else decay
        trace = jax.tree.map(
            lambda g, t: jnp.where(state.started, kept * t + (1 - dampening) * g, g).astype(t.dtype),
            updates,
            state.trace,
        )
        ahead = jax.tree.map(lambda g, t: (g + kept * t).astype(g.dtype), updates, trace)
        updates = ahead if nesterov else trace
        return updates, StartedTraceState(optax.safe_increment(state.count), jnp.asarray(True), trace)

    return optax.GradientTransformation(init, update)


def clip_by_torch_norm(max_norm: float) -> optax.GradientTransformation:
    """Gradient clipping as in `torch.nn.utils.clip_grad_norm_`: gradients times min(1, max_norm / (norm + 1e-6)).

    `optax.clip_by_global_norm` divides by the norm alone.

    Args:
        max_norm: largest norm of all gradients together.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        factor = jnp.minimum(max_norm / (optax.tree.norm(updates) + 1e-6), 1.0)
        return jax.tree.map(lambda g: (factor * g).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _one_minus_power(base: float | jax.Array, count: jax.Array) -> jax.Array:
    """1 - base^count, accurate also for small results."""
    if isinstance(base, jax.Array):
        return -jnp.expm1(count * jnp.log(base))
    return -jnp.expm1(count * (math.log(base) if base > 0 else -math.inf))
