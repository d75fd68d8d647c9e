"""RMSprop's update direction in optax, as `torch.optim.RMSprop` computes it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class RmsState(NamedTuple):
    """The state of `scale_by_torch_rms`.

    Attributes:
        count: number of steps taken.
        nu: exponential moving average of the squared gradients.
    """

    count: jax.typing.ArrayLike  # type: ignore[assignment]  # optax's name, which hides `tuple.count`
    nu: optax.Updates


class CenteredRmsState(NamedTuple):
    """The state of `scale_by_torch_rms` with `centered`.

    Attributes:
        count: number of steps taken.
        mu: exponential moving average of the gradients.
        nu: exponential moving average of the squared gradients.
    """

    count: jax.typing.ArrayLike  # type: ignore[assignment]  # optax's name, which hides `tuple.count`
    mu: optax.Updates
    nu: optax.Updates


def scale_by_torch_rms(alpha: float, eps: float, *, centered: bool = False) -> optax.GradientTransformation:
    """RMSprop's update direction as in `torch.optim.RMSprop`: g / (sqrt(v) + eps), or g / (sqrt(v - m^2) + eps).

    `optax.scale_by_rms` adds eps inside the square root by default and counts no steps; PyTorch's state has a step
    count.

    Args:
        alpha: decay rate of the moving averages.
        eps: added to the square root.
        centered: whether to subtract the squared mean m^2 of the gradients.

    Returns:
        A transformation with an `RmsState`, or a `CenteredRmsState`.
    """

    def init(params: optax.Params) -> optax.OptState:
        count, zeros = jnp.zeros([], jnp.int32), optax.tree.zeros_like
        return (
            CenteredRmsState(count, zeros(params), zeros(params))
            if centered
            else RmsState(count, zeros(params))
        )

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        count = optax.safe_increment(state.count)
        nu = jax.tree.map(lambda g, v: alpha * v + (1 - alpha) * g * g, updates, state.nu)
        if not centered:
            return jax.tree.map(lambda g, v: g / (jnp.sqrt(v) + eps), updates, nu), RmsState(count, nu)
        mu = jax.tree.map(lambda g, m: m + (1 - alpha) * (g - m), updates, state.mu)
        direction = jax.tree.map(lambda g, m, v: g / (jnp.sqrt(v - m * m) + eps), updates, mu, nu)
        return direction, CenteredRmsState(count, mu, nu)

    return optax.GradientTransformation(init, update)
