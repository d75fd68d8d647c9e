"""Array and dtype helpers that hide the differences between the frameworks."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from numbers import Integral, Real
from typing import Any, TypeVar, dataclass_transform

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.module import _global_forward_pre_hooks

_T = TypeVar("_T")


ARRAYS: tuple[type[Any], ...] = (Tensor,)
INTEGERS = (Integral, torch.SymInt)
REALS = (Real, torch.SymFloat)
_NARROW = {torch.int8, torch.int16, torch.uint8, torch.uint16, torch.uint32}
_PLAIN = (Tensor, torch.nn.Parameter)  # no subclasses: these may convert the input's dtype


def check_array(name: str, x: Any) -> None:
    """Raise TypeError unless `x` is an array of this framework."""
    if not isinstance(x, ARRAYS):
        if isinstance(x, np.generic) or not hasattr(x, "__array__"):
            raise TypeError(f"{name} must be an array, got {type(x).__name__}")
        kind = f"{type(x).__module__.split('.')[0]}.{type(x).__name__}"
        raise TypeError(f"{name} must be a torch.Tensor, got {kind}; convert it, as torch.from_numpy does")


def as_array(x: Tensor) -> Tensor:
    """Convert an array that `check_array` accepts to an array of this framework."""
    return x


def as_indices(x: Tensor) -> Tensor:
    """Convert integers to a dtype that embedding tables accept as indices."""
    return x.to(torch.int64) if x.dtype in _NARROW else x


def as_integers(x: Tensor) -> Tensor:
    """Convert integers to the dtype of positions."""
    return x.to(torch.int64)


def as_integers_within(x: Tensor, most: int) -> Tensor:
    """Convert integers to the dtype of positions, clipped to [-most, most]."""
    return as_integers(x).clamp(-most, most)


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Einsum in the precision of the arrays, with autocast disabled."""
    return _outside_autocast(partial(torch.einsum, equation), *operands)


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """`x @ y` in the precision of the arrays, with autocast disabled."""
    return _outside_autocast(torch.matmul, x, y)


def _outside_autocast(function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """Call a matrix product without autocast; operands of different dtypes are promoted to a common one."""
    kind = operands[0].device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return function(*operands)
    wide = reduce(torch.promote_types, (x.dtype for x in operands))
    with torch.autocast(kind, enabled=False):
        return function(*(x.to(wide) for x in operands))


def take_along(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """Take the elements of `x` at `index` along one axis; the other axes broadcast."""
    # Like take_along_dim, which would make a compiler specialise symbolic sizes.
    axis %= x.ndim
    shape = [theirs if own == 1 else own for own, theirs in zip(index.shape, x.shape, strict=True)]
    places = [index.shape[n] if n == axis else size for n, size in enumerate(shape)]
    taken = [x.shape[n] if n == axis else size for n, size in enumerate(shape)]
    return torch.gather(x.expand(taken), axis, index.expand(places))


def first(x: Tensor, size: int, axis: int) -> Tensor:
    """Take the first `size` elements along an axis; the size may be symbolic."""
    if isinstance(size, int) and not torch.compiler.is_compiling():
        return x.narrow(axis, 0, size)
    # The compiler specialises a slice on whether it is contiguous; index_select stays general.
    return x.index_select(axis, torch.arange(size, device=x.device))


def stable_order(x: Tensor) -> Tensor:
    """Stable argsort along the last axis, ascending."""
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        # ONNX has no `stable` option, but its sort is stable; it does not accept booleans.
        return torch.argsort(x.to(torch.int64) if x.dtype == torch.bool else x, dim=-1)
    return torch.argsort(x, dim=-1, stable=True)


def is_floating(x: Tensor) -> bool:
    """Whether an array holds floating-point numbers."""
    return x.dtype.is_floating_point


def is_integer(x: Tensor) -> bool:
    """Whether an array holds integers."""
    return not (x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool)


def is_size(x: Any) -> bool:
    """Whether `x` is an integer or a symbolic size."""
    return isinstance(x, INTEGERS) and not isinstance(x, bool)


def check_dtype(name: str, given: Any) -> Any:
    """Return a parameter dtype; TypeError unless it is a floating-point dtype of at least 16 bits."""
    if not isinstance(given, torch.dtype) or not given.is_floating_point:
        raise TypeError(f"{name} must be a floating-point dtype, got {given!r}")
    if given.itemsize < 2:
        raise TypeError(f"{name} must have at least 16 bits, got {str(given).removeprefix('torch.')}")
    return given


def check_promotion(module: Any, name: str, x: Any) -> None:
    """Raise ValueError if no linear layer of a module accepts the dtype of `x`.

    Flax's layers promote an array and their parameters to a common dtype. PyTorch's layers do not, except under
    autocast, with hooks, or in subclasses that convert.
    """
    other = None
    for layer in module._modules.values() if isinstance(x, Tensor) else ():
        if type(layer) is torch.nn.Linear:
            weight: Any = layer._parameters.get("weight")
            if type(weight) not in _PLAIN or weight.dtype == x.dtype or layer._forward_pre_hooks:
                return
            other = weight.dtype
    if other is None or _global_forward_pre_hooks:
        return
    if x.device.type == "meta" or not torch.is_autocast_enabled(x.device.type):
        dtypes = (str(kind).removeprefix("torch.") for kind in (other, x.dtype))
        raise ValueError("{} must have the dtype of the parameters, {}, got {}".format(name, *dtypes))


def with_rank(x: Tensor, rank: int) -> Tensor:
    """Prepend axes of size 1 to `x` until it has `rank` axes."""
    return x[(None,) * (rank - x.ndim)]


def larger(size: int, other: int) -> int:
    """The larger of two sizes, which may be symbolic."""
    return torch.sym_max(size, other)


def smaller(size: int, other: int) -> int:
    """The smaller of two sizes, which may be symbolic."""
    return torch.sym_min(size, other)


def log_size(size: int) -> Any:
    """The logarithm of a size, which may be symbolic; 0 for an empty axis."""
    if torch.compiler.is_compiling():  # `math.log` would specialise a symbolic size
        return torch.log(torch.scalar_tensor(torch.sym_max(size, 1), dtype=torch.float64))
    return math.log(torch.sym_max(size, 1))


def value_above(size: int, most: int, value: int) -> Any:
    """`value` if a size is above `most`, else 0; an array if the size is known only at run time."""
    return value if size > most else 0


@dataclass_transform(frozen_default=True)
def record(*, static: tuple[str, ...] = ()) -> Callable[[type[_T]], type[_T]]:
    """Make a class a frozen dataclass that compiled functions can take and return.

    Args:
        static: names of fields without arrays; compiled code is specialised on their values.
    """
    return dataclass(frozen=True)
