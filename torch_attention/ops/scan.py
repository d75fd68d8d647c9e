"""A recurrence, one step after the other."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from torch_attention.ops.known import is_static


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
    if not is_static(inputs[0].shape[0]):
        return _scan_symbolic(step, state, inputs)
    if inputs[0].shape[0] == 0:  # one step on zeros tells the shapes of the outputs, of which there are none
        _, output = step(state, tuple(x.new_zeros(x.shape[1:]) for x in inputs))
        return state, tree_map(lambda x: x.new_zeros((0, *x.shape)), output)
    outputs = []
    for elements in zip(*inputs, strict=True):
        state, output = step(state, elements)
        outputs.append(output)
    if isinstance(outputs[0], tuple):
        return state, tuple(map(torch.stack, zip(*outputs, strict=True)))
    return state, torch.stack(outputs)


def _scan_symbolic(
    step: Callable[[Any, tuple[Tensor, ...]], tuple[Any, Any]], state: Any, inputs: tuple[Tensor, ...]
) -> tuple[Any, Any]:
    """The same as one operation, for a number of steps that a compiler does not know."""
    from torch._higher_order_ops.scan import scan as scan_operation  # slow to import

    def copied(state: Any, elements: tuple[Tensor, ...]) -> tuple[Any, Any]:
        state, output = step(rebuilt(state), elements)
        # What it returns may not share memory with what it is given.
        return tree_map(torch.clone, plain(state)), tree_map(torch.clone, output)

    kind = type(state)

    def plain(state: Any) -> Any:
        """A state without the names of its fields, which the operation does not take."""
        return state if isinstance(state, Tensor) else tuple(state)

    def rebuilt(state: Any) -> Any:
        return kind(*state) if hasattr(kind, "_fields") else state

    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        # ONNX has no gradients, and the operation that prepares some cannot be converted.
        state, inputs = tree_map(lambda x: x.detach().clone(), (plain(state), inputs))
    last, outputs = scan_operation(copied, plain(state), inputs)
    return rebuilt(last), outputs
