"""A model's call as one program: JAX compiles each operation of a plain call alone, which takes ten times as long."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx


def program(model: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call(model, *arrays)` as a function of the arrays: compiled whole if the model is a module of NNX.

    Args:
        model: a model of either mirror.
        call: a function of the model and of arrays, which returns arrays.
    """
    if not isinstance(model, nnx.Module):
        return partial(call, model)
    graph, state = nnx.split(model)
    return partial(jax.jit(lambda state, *arrays: call(nnx.merge(graph, state), *arrays)), state)
