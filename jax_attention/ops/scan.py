"""A recurrence, one step after the other."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array


def scan(
    step: Callable[[Any, tuple[Array, ...]], tuple[Any, Any]], state: Any, inputs: tuple[Array, ...]
) -> tuple[Any, Any]:
    """Run `step` along the first axis of the inputs.

    Args:
        step: from a state and one element of each input to the next state, of the same shapes, and an
            output: an array or a tuple of arrays.
        state: an array or a tuple of arrays.
        inputs: arrays whose first axes have the same size.

    Returns:
        The last state, and the outputs stacked along a new first axis.
    """
    return jax.lax.scan(step, state, inputs)
