"""Lion's update direction in optax, with a schedule of its first beta."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from attention_bridge.optimizers.steps import Rate


def scale_by_torch_lion(b1: Rate, b2: float) -> optax.GradientTransformation:
    """Lion's update direction: sign(b1 * m + (1 - b1) * g), then m becomes b2 * m + (1 - b2) * g.

    `optax.scale_by_lion` has the same formula, but no schedule of `b1`. Source: Chen et al., "Symbolic discovery of
    optimization algorithms", 2023, algorithm 2.

    Args:
        b1: weight of the moving average in the direction, or a schedule of it.
        b2: decay rate of the moving average.

    Returns:
        A transformation whose state is optax's own `ScaleByLionState`.
    """

    def init(params: optax.Params) -> optax.ScaleByLionState:
        return optax.ScaleByLionState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(
        updates: optax.Updates, state: optax.ScaleByLionState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByLionState]:
        first = b1(state.count) if callable(b1) else b1
        direction = jax.tree.map(
            lambda g, m: jnp.sign(first * m + (1 - first) * g).astype(m.dtype), updates, state.mu
        )
        mu = jax.tree.map(lambda g, m: b2 * m + (1 - b2) * g, updates, state.mu)
        return direction, optax.ScaleByLionState(optax.safe_increment(state.count), mu)

    return optax.GradientTransformation(init, update)
