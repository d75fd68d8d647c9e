"""What an array holds, where that can be known."""

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad


def known_values(x: Tensor) -> np.ndarray | None:
    """The values of `x`; None while code is compiled or mapped, when an array stands for others yet to come."""
    if torch.compiler.is_compiling() or x.is_meta:
        return None
    try:
        return x.detach().cpu().numpy()
    except RuntimeError:  # `torch.func.vmap` keeps what it maps over to itself
        return None


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
