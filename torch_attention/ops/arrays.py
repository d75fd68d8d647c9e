"""Small steps on arrays that each framework takes in its own way, and what is known of them while code is traced."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map

from torch_attention.arguments import checked


def known_values(x: Tensor) -> np.ndarray | None:
    """The values of `x`; None while code is compiled or mapped, when an array stands for others yet to come."""
    if torch.compiler.is_compiling() or x.is_meta:
        return None
    try:
        return x.detach().cpu().numpy()
    except RuntimeError:  # `torch.func.vmap` keeps what it maps over to itself
        return None


def values_at_hand(x: Tensor) -> np.ndarray | None:
    """The values of `x` where they are known and in the memory of the CPU, so that a look costs little; else None."""
    return known_values(x) if x.device.type == "cpu" and type(x) in (Tensor, torch.nn.Parameter) else None


def known_finite(x: Tensor) -> bool:
    """Whether `x` is known to hold neither NaN nor inf; False where a look would cost more than it saves."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or type(x) not in (Tensor, torch.nn.Parameter):
        return False
    try:
        return bool(x.detach().sum().isfinite())
    except RuntimeError:  # `torch.func.vmap` keeps what it maps over to itself
        return False


def known_within(x: Tensor, most: float) -> bool | None:
    """Whether no number of `x` but -inf is above `most` in magnitude; None where it cannot be known or a look costs."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or type(x) not in (Tensor, torch.nn.Parameter):
        return None
    try:
        return bool((x.detach().abs().where(x != -torch.inf, 0.0) <= most).all())
    except RuntimeError:  # `torch.func.vmap` keeps what it maps over to itself
        return None


def is_static(size: int) -> bool:
    """Whether a size is a number; False for a symbol, by which a compiler makes one program for all sizes."""
    if not torch.compiler.is_compiling():
        return isinstance(size, int)
    from torch.fx.experimental.symbolic_shapes import has_static_value  # slow to import

    return has_static_value(size)


def known_above(count: int, most: int) -> bool:
    """Whether a size is known to be above `most`; False for symbolic sizes, of which this cannot be known."""
    return not known_at_most(count, most)


def proven_at_most(size: int, most: int) -> bool:
    """Whether a size is at most `most`."""
    return bool(size <= most)


def known_at_most(count: int, most: int) -> bool:
    """Whether a product of sizes is at most `most`; True for symbolic sizes, of which this cannot be known."""
    return not is_static(count) or count <= most


def may_be_learned(x: Tensor) -> bool:
    """Whether a gradient may flow to `x`; inside `torch.func` `requires_grad` does not show it, so True there."""
    if x.requires_grad or torch.compiler.is_compiling():
        return x.requires_grad
    return bool(retrieve_all_functorch_interpreters())


def is_dual(arrays: tuple[object, ...]) -> bool:
    """Whether a forward-mode derivative is taken: an array has a tangent, or `torch.func.jvp` is at work."""
    if torch.compiler.is_compiling():
        return False
    if any(each.key() == TransformType.Jvp for each in retrieve_all_functorch_interpreters()):
        return True
    if forward_ad._current_level < 0:
        return False
    return any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in arrays)


def write_slots(
    x: Shaped[Tensor, "*batch slots dim"], new: Shaped[Tensor, "*batch new dim"], start: Int[Tensor, ""]
) -> Shaped[Tensor, "*batch slots dim"]:
    """`x` with `new` in the slots from `start` on; if that is beyond the end, in the last ones."""
    first = torch.clamp(start, max=x.shape[-2] - new.shape[-2])
    return torch.index_copy(x, -2, first + torch.arange(new.shape[-2], device=x.device), new)


def sum_by_slot(
    x: Float[Tensor, "... query key"], slot: Int[Tensor, "... query key"], count: int
) -> Float[Tensor, "... query slots"]:
    """The sum over the keys of each slot, for each query; `slot` is broadcast against `x`."""
    zeros = torch.zeros((*x.shape[:-1], count), dtype=x.dtype, device=x.device)
    return zeros.scatter_add(-1, torch.broadcast_to(slot, x.shape), x)


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


@checked
def solve_unit_lower(
    lower: Float[Tensor, "*batch length length"], right: Float[Tensor, "*batch length dim"]
) -> Float[Tensor, "*batch length dim"]:
    """Solve (I + L) X = B.

    Args:
        lower: L; what stands on its diagonal and above is not read.
        right: B.
    """
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():  # ONNX has no such operator
        return _substitute(lower, right)
    return torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)


def _substitute(
    lower: Float[Tensor, "*batch length length"], right: Float[Tensor, "*batch length dim"]
) -> Float[Tensor, "*batch length dim"]:
    """(I + L)^-1 B row by row."""
    rows = torch.tril(lower, -1).movedim(-2, 0)  # length *batch length
    own = torch.eye(lower.shape[-1], dtype=torch.bool, device=lower.device)  # length length

    def step(solved: Tensor, row: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        known = row[0][..., None, :] @ solved  # *batch 1 dim
        return torch.where(row[1][:, None], solved - known, solved), known

    return scan(step, right, (rows, own))[0]
