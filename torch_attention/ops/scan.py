"""A recurrence, one step after the other."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def scan(
    step: Callable[[Any, tuple[Tensor, ...]], tuple[Any, Any]], state: Any, inputs: tuple[Tensor, ...]
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
    if inputs[0].shape[0] == 0:  # a step on zeros tells the shapes of the outputs
        _, output = step(state, tuple(x.new_zeros(x.shape[1:]) for x in inputs))
        empty = tuple(x[None][:0] for x in output) if isinstance(output, tuple) else output[None][:0]
        return state, empty
    outputs = []
    for elements in zip(*inputs, strict=True):
        state, output = step(state, elements)
        outputs.append(output)
    if isinstance(outputs[0], tuple):
        return state, tuple(map(torch.stack, zip(*outputs, strict=True)))
    return state, torch.stack(outputs)
