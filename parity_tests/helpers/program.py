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


def read_on(model: Any, tokens: Any, mask: Any = None, positions: Any = None, caches: Any = None) -> Any:
    """The logits of a decoder's next tokens, and its caches: a step for `program`."""
    read = model(tokens, mask, positions=positions, caches=caches)
    return read.logits, read.caches


def write_on(model: Any, target: Any, memory: Any, source_mask: Any, caches: Any) -> Any:
    """The logits of an encoder-decoder's next target tokens, and its caches: a step for `program`."""
    written = model.decode(target, memory, source_mask=source_mask, caches=caches)
    return written.logits, written.caches
