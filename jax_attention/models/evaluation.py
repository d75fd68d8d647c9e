"""Run a function of a model for inference, without dropout or gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax import lax


def evaluate(function: Callable[..., Any], model: nnx.Module, *arrays: Any, **settings: Any) -> Any:
    """Call `function(model, *arrays, **settings)` with the model in evaluation mode, and restore its mode.

    Args:
        function: function to call; must be the same object in each call, because its compiled program is cached.
        model: first argument of the function.
        arrays: arrays, tuples of arrays, or None.
        settings: other arguments; hashable.
    """
    graphdef, state = nnx.split(model)
    return _evaluate(function, graphdef, state, arrays, tuple(settings.items()))


def evaluate_while(
    condition: Callable[[Any], Any],
    step: Callable[..., Any],
    model: nnx.Module,
    state: Any,
    callback: Callable[[Any], object] | None = None,
    **settings: Any,
) -> Any:
    """Repeat `state = step(model, state, **settings)` while `condition(state)` holds, as in `evaluate`.

    Args:
        condition, step: functions to call; must be the same objects in each call.
        model: first argument of `step`.
        state: a named tuple of arrays with the field `last`.
        callback: called with `state.last` after each step.
        settings: other arguments of `step`; hashable.
    """
    graphdef, parameters = nnx.split(model)
    named = tuple(settings.items())
    if callback is None:
        return _evaluate_while(condition, step, graphdef, parameters, state, named)
    while condition(state):
        state = _evaluate(step, graphdef, parameters, (state,), named)
        callback(state.last)
    return state


def capacity_for(length: int) -> int | None:
    """Capacity of KV caches for `length` tokens; None for caches that grow."""
    return length  # compiled code needs arrays of fixed size


# Compiled once per function, model structure, array shapes and settings.
@partial(jax.jit, static_argnames=("function", "graphdef", "settings"))
def _evaluate(
    function: Callable[..., Any],
    graphdef: Any,
    parameters: Any,
    arrays: tuple[Any, ...],
    settings: tuple[tuple[str, Any], ...],
) -> Any:
    model = nnx.merge(graphdef, parameters)
    model.eval()
    return function(model, *arrays, **dict(settings))


@partial(jax.jit, static_argnames=("condition", "step", "graphdef", "settings"))
def _evaluate_while(
    condition: Callable[[Any], Any],
    step: Callable[..., Any],
    graphdef: Any,
    parameters: Any,
    state: Any,
    settings: tuple[tuple[str, Any], ...],
) -> Any:
    model = nnx.merge(graphdef, parameters)
    model.eval()
    return lax.while_loop(condition, lambda state: step(model, state, **dict(settings)), state)
