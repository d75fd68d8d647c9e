"""A function of a model, run as it is used and not as it is trained: without dropout, without gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx


def evaluate(function: Callable[..., Any], model: nnx.Module, *arrays: Any, **settings: Any) -> Any:
    """Call `function(model, *arrays, **settings)` with the model in evaluation mode, which it is not left in.

    Args:
        function: one that stays the same from call to call, by which what was compiled is found again.
        model: what it is about.
        arrays: arrays, or None.
        settings: anything else; hashable.
    """
    graphdef, state = nnx.split(model)
    return _evaluate(function, graphdef, state, arrays, tuple(settings.items()))


# Compiled once for each function, kind of model, shape of the arrays and choice of settings.
@partial(jax.jit, static_argnames=("function", "graphdef", "settings"))
def _evaluate(
    function: Callable[..., Any],
    graphdef: Any,
    state: Any,
    arrays: tuple[Any, ...],
    settings: tuple[tuple[str, Any], ...],
) -> Any:
    model = nnx.merge(graphdef, state)
    model.eval()
    return function(model, *arrays, **dict(settings))
