"""The calls of all submodules of two models, and a submodule called with the inputs that the other one had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from attention_bridge.parity.calls import Calls
from attention_bridge.parity.measure import COARSE
from attention_bridge.parity.run import named_outputs
from attention_bridge.parity.stages import watched
from attention_bridge.weights.leaves import to_numpy, to_torch


@dataclass(frozen=True)
class Record:
    """One call of a submodule: its arguments, with arrays in numpy, and the arrays of its result by name."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: Mapping[str, np.ndarray]

    def arrays(self) -> list[np.ndarray]:
        """The arrays among the arguments, by position and then by name."""
        return [x for x in (*self.args, *self.kwargs.values()) if isinstance(x, np.ndarray)]

    @property
    def output(self) -> np.ndarray | None:
        """The first array of the result, if it holds floating-point numbers."""
        first = next(iter(self.outputs.values()), None)
        return first if first is not None and is_float(first) else None


Records = dict[str, Record]  # by path, the first call of each submodule, in the order of their ends


def record_torch(module: torch.nn.Module, calls: Calls) -> Records:
    """Run a PyTorch model and record the calls of its submodules; the model itself has the path `""`."""
    records: Records = {}

    def hook(path: str) -> Callable[..., None]:
        def keep(_: Any, args: Any, kwargs: Any, result: Any) -> None:
            if path not in records:
                records[path] = Record(
                    tuple(map(_numpy, args)), {name: _numpy(x) for name, x in kwargs.items()}, fields(result)
                )

        return keep

    with ExitStack() as hooks, torch.no_grad():
        for path, part in module.named_modules():
            if path:
                hooks.callback(part.register_forward_hook(hook(path), with_kwargs=True).remove)
        result = calls.call_torch(module, {name: _tensor(x) for name, x in calls.inputs.items()})
    records[""] = Record((), calls.inputs, fields(result))
    return records


def record_jax(module: Any, calls: Calls) -> Records:
    """Run an NNX model and record the calls of its submodules."""
    with recorded(module) as records:
        result = calls.call_jax(module, {name: _jax(x) for name, x in calls.inputs.items()})
    records[""] = Record((), calls.inputs, fields(result))
    return records


@contextmanager
def recorded(module: Any, given: Mapping[str, np.ndarray] | None = None) -> Iterator[Records]:
    """Record the calls of the submodules of an NNX model while the context is active, since NNX has no hooks.

    Args:
        module: the model.
        given: arrays by path that the first call of a submodule returns instead of its own output; None for none.
    """
    records: Records = {}

    def watch(path: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        if path in records:
            return result
        named = {name: _numpy(x) for name, x in kwargs.items()}
        records[path] = Record(tuple(map(_numpy, args)), named, fields(result))
        return _replaced(result, given[path]) if given is not None and path in given else result

    with watched(module, watch):
        yield records


def _replaced(result: Any, given: np.ndarray) -> Any:
    """A result with another array as its first one; unchanged if that has another shape."""
    if isinstance(result, tuple) and result:
        first = _replaced(result[0], given)
        rest = result[1:]
        return type(result)(first, *rest) if hasattr(result, "_fields") else (first, *rest)
    if not isinstance(result, jax.Array):
        return result
    moved = alike(given, np.asarray(result))
    return result if moved is None else jnp.asarray(moved.astype(result.dtype))


def submodule(module: Any, path: str) -> Any:
    """The submodule of an NNX model with a path."""
    if not path:
        return module
    return next(part for place, part in nnx.iter_modules(module) if ".".join(map(str, place)) == path)


def call_torch(
    module: torch.nn.Module, record: Record, dtype: torch.dtype | None = None
) -> dict[str, np.ndarray]:
    """Call a PyTorch submodule with recorded arguments, floating-point ones in a dtype."""

    def given(x: Any) -> Any:
        x = _tensor(x)
        return (
            x.to(dtype) if dtype is not None and isinstance(x, torch.Tensor) and x.is_floating_point() else x
        )

    with torch.no_grad():
        return fields(
            module(*map(given, record.args), **{name: given(x) for name, x in record.kwargs.items()})
        )


def call_jax(module: Any, theirs: Record, ours: Record) -> dict[str, np.ndarray] | None:
    """Call a JAX submodule with the arguments of PyTorch's call, in the way in which it was called itself.

    Args:
        module: the JAX submodule.
        theirs: PyTorch's call.
        ours: JAX's own call, which says how arguments are passed.

    Returns:
        The outputs, with the axes of PyTorch's; None if the arguments cannot be passed on.
    """
    filled = arguments(theirs, ours)
    if filled is None:
        return None
    args, kwargs = filled
    return fields(module(*args, **kwargs))


def arguments(theirs: Record, ours: Record) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of JAX's call with the arrays of PyTorch's call in their order; None if they do not fit."""
    given, own = theirs.arrays(), ours.arrays()
    moved: list[np.ndarray | None]
    if len(given) == len(own):
        moved = [alike(x, other) for x, other in zip(given, own, strict=True)]
    else:  # positions and masks that only one of the models passes on: the port keeps its own
        floats = iter([x for x in given if is_float(x)])
        moved = [alike(next(floats, x), x) if is_float(x) else x for x in own]
    if any(x is None for x in moved):
        return None
    queue = iter(moved)

    def next_of(x: Any) -> Any:
        return jnp.asarray(next(queue).astype(x.dtype)) if isinstance(x, np.ndarray) else x  # type: ignore[union-attr]

    return tuple(map(next_of, ours.args)), {name: next_of(x) for name, x in ours.kwargs.items()}


def with_other_masks(theirs: Record, ours: Record) -> Record | None:
    """PyTorch's call with the masks of JAX's, where they are the inverse; None if no mask is."""
    own = [x for x in ours.arrays() if is_mask(x)]

    def other(x: Any) -> Any:
        inverse = (
            isinstance(x, np.ndarray)
            and is_mask(x)
            and any(np.array_equal(x, 1 - each.astype(int)) for each in own)
        )
        return (1 - x.astype(int)).astype(x.dtype) if inverse else x

    found = Record(
        tuple(map(other, theirs.args)), {name: other(x) for name, x in theirs.kwargs.items()}, theirs.outputs
    )
    changed = any(x is not y for x, y in zip(found.arrays(), theirs.arrays(), strict=True))
    return found if changed else None


def is_mask(x: np.ndarray) -> bool:
    """Whether an array holds truth values, or zeros and ones as integers."""
    return x.dtype.kind == "b" or (x.dtype.kind in "iu" and bool(np.isin(x, (0, 1)).all()))


def is_float(x: np.ndarray) -> bool:
    """Whether an array holds floating-point numbers."""
    return x.dtype.kind == "f" or x.dtype.name in COARSE


def alike(x: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """An array with the shape of another one, its channels moved to the end if need be; None if it does not fit."""
    if x.shape == other.shape:
        return x
    if x.ndim > 2 and np.moveaxis(x, 1, -1).shape == other.shape:
        return np.moveaxis(x, 1, -1)
    return None


def back(x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """An array of JAX with the axes of one of PyTorch."""
    if x.shape != other.shape and x.ndim > 2 and np.moveaxis(x, -1, 1).shape == other.shape:
        return np.moveaxis(x, -1, 1)
    return x


def _numpy(x: Any) -> Any:
    return to_numpy("an argument", x) if isinstance(x, (torch.Tensor, jax.Array)) else x


def _tensor(x: Any) -> Any:
    return to_torch(x) if isinstance(x, np.ndarray) else x


def _jax(x: Any) -> Any:
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def fields(result: Any) -> dict[str, np.ndarray]:
    """The arrays of a result by name; none if it holds objects of other kinds."""
    try:
        found = named_outputs(result)
    except TypeError:
        return {}
    return {name: to_numpy(name, x) if hasattr(x, "dtype") else np.asarray(x) for name, x in found.items()}
