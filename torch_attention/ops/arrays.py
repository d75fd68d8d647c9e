"""Array operations that differ between the frameworks, and queries about values and sizes in traced code."""

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
    """Values of `x` as a NumPy array; None in compiled or mapped code, where `x` is a placeholder."""
    if torch.compiler.is_compiling() or x.is_meta:
        return None
    try:
        return x.detach().cpu().numpy()
    except RuntimeError:  # values are not readable under `torch.func.vmap`
        return None


def values_at_hand(x: Tensor) -> np.ndarray | None:
    """Values of `x` if they are known and in CPU memory, where reading them is cheap; else None."""
    return known_values(x) if x.device.type == "cpu" and type(x) in (Tensor, torch.nn.Parameter) else None


def known_finite(x: Tensor) -> bool:
    """Whether `x` is known to hold neither NaN nor inf; False if checking would be expensive."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or type(x) not in (Tensor, torch.nn.Parameter):
        return False
    try:
        return bool(x.detach().sum().isfinite())
    except RuntimeError:  # values are not readable under `torch.func.vmap`
        return False


def known_within(x: Tensor, most: float) -> bool | None:
    """Whether all numbers of `x` except -inf are at most `most` in magnitude; None if unknown or expensive to check."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or type(x) not in (Tensor, torch.nn.Parameter):
        return None
    try:
        return bool((x.detach().abs().where(x != -torch.inf, 0.0) <= most).all())
    except RuntimeError:  # values are not readable under `torch.func.vmap`
        return None


def is_static(size: int) -> bool:
    """Whether a size is a number; False for a symbolic size, with which one compiled program serves all sizes."""
    if not torch.compiler.is_compiling():
        return isinstance(size, int)
    from torch.fx.experimental.symbolic_shapes import has_static_value  # slow to import

    return has_static_value(size)


def known_above(count: int, most: int) -> bool:
    """Whether a size is known to be above `most`; False for symbolic sizes."""
    return not known_at_most(count, most)


def proven_at_most(size: int, most: int) -> bool:
    """Whether a size is at most `most`."""
    return bool(size <= most)


def known_at_most(count: int, most: int) -> bool:
    """Whether a product of sizes is at most `most`; True for symbolic sizes."""
    return not is_static(count) or count <= most


def may_be_learned(x: Tensor) -> bool:
    """Whether a gradient may flow to `x`; always True inside `torch.func`, where `requires_grad` does not show it."""
    if x.requires_grad or torch.compiler.is_compiling():
        return x.requires_grad
    return bool(retrieve_all_functorch_interpreters())


def is_dual(arrays: tuple[object, ...]) -> bool:
    """Whether forward-mode differentiation is active: an array has a tangent, or `torch.func.jvp` is running."""
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
    """Write `new` into the slots of `x` from `start` on; beyond the end, into the last slots."""
    first = torch.clamp(start, max=x.shape[-2] - new.shape[-2])
    return torch.index_copy(x, -2, first + torch.arange(new.shape[-2], device=x.device), new)


def sum_by_slot(
    x: Float[Tensor, "... query key"], slot: Int[Tensor, "... query key"], count: int
) -> Float[Tensor, "... query slots"]:
    """Sum `x` over the keys of each slot, for each query; `slot` is broadcast against `x`."""
    zeros = torch.zeros((*x.shape[:-1], count), dtype=x.dtype, device=x.device)
    return zeros.scatter_add(-1, torch.broadcast_to(slot, x.shape), x)


def scan(
    step: Callable[[Any, tuple[Tensor, ...]], tuple[Any, Any]],
    state: Any,
    inputs: tuple[Tensor, ...],
    *,
    length: int | None = None,
) -> tuple[Any, Any]:
    """Run `step` along the first axis of the inputs.

    Args:
        step: function from a state and one element of each input to the next state, of the same shapes, and an
            output, which is an array or a tuple of arrays.
        state: initial state, an array or a tuple of arrays.
        inputs: arrays whose first axes have the same size.
        length: length of the sequence, if the inputs are chunks of it; None if each input is one token.

    Returns:
        The last state, and the outputs stacked along a new first axis.
    """
    if not is_static(inputs[0].shape[0]):
        return _scan_symbolic(step, state, inputs, length)
    if inputs[0].shape[0] == 0:  # one step on zeros gives the shapes of the empty outputs
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
    step: Callable[[Any, tuple[Tensor, ...]], tuple[Any, Any]],
    state: Any,
    inputs: tuple[Tensor, ...],
    length: int | None,
) -> tuple[Any, Any]:
    """`scan` as a single operation, for a symbolic number of steps."""
    from torch._higher_order_ops.scan import scan as scan_operation  # slow to import

    def copied(state: Any, elements: tuple[Tensor, ...]) -> tuple[Any, Any]:
        state, output = step(rebuilt(state), elements[: len(inputs)])
        # The results must not share memory with the inputs.
        return tree_map(torch.clone, plain(state)), tree_map(torch.clone, output)

    kind = type(state)

    def plain(state: Any) -> Any:
        """Convert a state to a plain tuple: the operation does not accept named tuples."""
        return state if isinstance(state, Tensor) else tuple(state)

    def rebuilt(state: Any) -> Any:
        return kind(*state) if hasattr(kind, "_fields") else state

    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        # ONNX has no gradients, and an operation that prepares for them cannot be converted.
        state, inputs = tree_map(lambda x: x.detach().clone(), (plain(state), inputs))
    steps = tuple(x.contiguous() for x in inputs)  # Inductor cannot order the symbolic strides of views
    if length is not None:
        # Inductor computes the size of the outputs from symbols of the elements: one element has the length itself.
        steps += (inputs[0].new_zeros(()).expand(inputs[0].shape[0], length),)
    last, outputs = scan_operation(copied, plain(state), steps)
    return rebuilt(last), outputs


@checked
def solve_unit_lower(
    lower: Float[Tensor, "*batch length length"], right: Float[Tensor, "*batch length dim"]
) -> Float[Tensor, "*batch length dim"]:
    """Solve (I + L) X = B for a strictly lower triangular L.

    Args:
        lower: matrix L; its diagonal and upper triangle are not read.
        right: right-hand side B.
    """
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():  # ONNX has no such operator
        return _substitute(lower, right)
    return torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)


def _substitute(
    lower: Float[Tensor, "*batch length length"], right: Float[Tensor, "*batch length dim"]
) -> Float[Tensor, "*batch length dim"]:
    """Compute (I + L)^-1 B by forward substitution, row by row."""
    rows = torch.tril(lower, -1).movedim(-2, 0)  # length *batch length
    own = torch.eye(lower.shape[-1], dtype=torch.bool, device=lower.device)  # length length

    def step(solved: Tensor, row: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        known = row[0][..., None, :] @ solved  # *batch 1 dim
        return torch.where(row[1][:, None], solved - known, solved), known

    return scan(step, right, (rows, own))[0]
