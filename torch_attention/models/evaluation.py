"""Run a function of a model for inference, without dropout or gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def evaluate(function: Callable[..., Any], model: nn.Module, *arrays: Any, **settings: Any) -> Any:
    """Call `function(model, *arrays, **settings)` with the model in evaluation mode, and restore its mode.

    Args:
        function: function to call; must be the same object in each call, because its compiled program is cached.
        model: first argument of the function.
        arrays: arrays, tuples of arrays, or None.
        settings: other arguments; hashable.
    """
    was_training = model.training
    model.eval()
    try:
        return function(model, *arrays, **settings)
    finally:
        model.train(was_training)


def evaluate_while(
    condition: Callable[[Any], Any],
    step: Callable[..., Any],
    model: nn.Module,
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

    def repeat(model: nn.Module, state: Any) -> Any:
        while condition(state):
            state = step(model, state, **settings)
            if callback is not None:
                callback(state.last)
        return state

    return evaluate(repeat, model, state)


def capacity_for(length: int) -> int | None:
    """Capacity of KV caches for `length` tokens; None for caches that grow."""
    del length
    return None
