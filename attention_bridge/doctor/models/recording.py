"""The calls of all submodules of two models, and a submodule called with the inputs that the other one had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from attention_bridge.doctor.models.core import HIDDEN
from attention_bridge.doctor.models.nested import leaves, mapped
from attention_bridge.parity.calls import Calls
from attention_bridge.parity.measure import COARSE
from attention_bridge.parity.run import named_outputs
from attention_bridge.parity.stages import CALL, watched
from attention_bridge.weights.leaves import to_numpy, to_torch


@dataclass(frozen=True)
class Record:
    """One call of a submodule: its arguments, with arrays in numpy, and the arrays of its result by name.

    Attributes:
        args, kwargs: the arguments, as they were before the call.
        outputs: the arrays of the result by name.
        result: the result itself, of a call in JAX.
        span: numbers of the events at which the call began and ended, so that the calls inside it can be found.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: Mapping[str, np.ndarray]
    result: Any = None
    span: tuple[int, int] = (0, 0)

    def arrays(self) -> list[np.ndarray]:
        """The arrays among the arguments, by position and then by name."""
        return [x for x in (*self.args, *self.kwargs.values()) if isinstance(x, np.ndarray)]

    def nested(self) -> list[np.ndarray]:
        """The arrays among the arguments, also those in tuples, lists, dicts and dataclasses, such as KV caches."""
        return [*leaves((self.args, {**self.kwargs}))]

    @property
    def output(self) -> np.ndarray | None:
        """The first array of the result, if it holds floating-point numbers."""
        first = next(iter(self.outputs.values()), None)
        return first if first is not None and is_float(first) else None


Records = dict[str, Record]  # by path, one call of each submodule, in the order of their ends
AllRecords = dict[str, list[Record]]  # by path, all calls of each submodule


def record_torch(module: torch.nn.Module, calls: Calls) -> Records:
    """Run a PyTorch model and record the first calls of its submodules; the model itself has the path `""`."""
    return {path: each[0] for path, each in all_of_torch(module, calls).items()}


def all_of_torch(module: torch.nn.Module, calls: Calls) -> AllRecords:
    """Run a PyTorch model and record all calls of its submodules."""
    records: AllRecords = {}
    begun: list[tuple[Any, Any, int]] = []
    events = count()

    def hook(path: str) -> Callable[..., None]:
        def keep(_: Any, __: Any, ___: Any, result: Any) -> None:
            args, kwargs, first = begun.pop()
            span = first, next(events)
            records.setdefault(path, []).append(Record(args, kwargs, fields(result), span=span))

        return keep

    def begin(_: Any, args: Any, kwargs: Any) -> None:
        begun.append((_copied(tuple(args)), _copied({**kwargs}), next(events)))

    with ExitStack() as hooks, torch.no_grad():
        for path, part in module.named_modules():
            if path:
                hooks.callback(part.register_forward_pre_hook(begin, with_kwargs=True).remove)
                hooks.callback(part.register_forward_hook(hook(path), with_kwargs=True).remove)
        result = calls.call_torch(module, {name: _tensor(x) for name, x in calls.inputs.items()})
    records[""] = [Record((), calls.inputs, fields(result), span=(-1, next(events)))]
    return records


def record_jax(module: Any, calls: Calls) -> Records:
    """Run an NNX model and record the first calls of its submodules."""
    return {path: each[0] for path, each in all_of_jax(module, calls).items()}


def all_of_jax(module: Any, calls: Calls, parts: Mapping[str, Any] | None = None) -> AllRecords:
    """Run an NNX model and record all calls of its submodules."""
    with recorded(module, parts=parts) as records:
        result = calls.call_jax(module, {name: _jax(x) for name, x in calls.inputs.items()})
    last = max((each[-1].span[1] for each in records.values()), default=0)
    records[""] = [Record((), calls.inputs, fields(result), span=(-1, last + 1))]
    return records


@contextmanager
def recorded(
    module: Any,
    given: Mapping[str, list[Record]] | None = None,
    own: Mapping[str, list[Record]] | None = None,
    parts: Mapping[str, Any] | None = None,
) -> Iterator[AllRecords]:
    """Record the calls of the submodules of an NNX model while the context is active, since NNX has no hooks.

    Args:
        module: the model.
        given: the reference's calls by path, whose outputs the calls of a submodule return instead of their own; None
            for none.
        own: earlier calls of the port by path, whose results have the right form, so that a submodule that is given
            its outputs need not run; None runs all.
        parts: the submodules by path; None lists them.
    """
    records: AllRecords = {}
    begun: list[tuple[Any, Any, int]] = []
    events = count()
    given = {} if given is None else given

    def outputs(path: str) -> list[np.ndarray] | None:
        number = len(records.get(path, ()))
        wanted = given.get(path, ())
        return [*wanted[number].outputs.values()] if number < len(wanted) else None

    def begin(path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = _copied(args), _copied(kwargs)
        wanted, earlier = outputs(path), own.get(path) if own else None
        if wanted is not None and earlier and len(earlier[0].outputs) == len(wanted):
            kept = earlier[min(len(records.get(path, ())), len(earlier) - 1)]
            made = _replaced(kept.result, wanted)
            if made is not None:
                records.setdefault(path, []).append(Record(*arguments, {}))
                return made
        begun.append((*arguments, next(events)))
        return CALL

    def watch(path: str, _: tuple[Any, ...], __: dict[str, Any], result: Any) -> Any:
        wanted = outputs(path)
        args, kwargs, first = begun.pop()
        record = Record(args, kwargs, fields(result), result, (first, next(events)))
        records.setdefault(path, []).append(record)
        if wanted is None:
            return result
        whole = _replaced(result, wanted)
        return _first_replaced(result, wanted[0]) if whole is None else whole

    with watched(module, watch, begin, parts):
        yield records


def _replaced(result: Any, given: list[np.ndarray]) -> Any:
    """A result with other arrays, of which the first one must fit; None if it does not."""
    own = [*leaves(result, jax.Array)]
    if len(given) != len(own) or not own or alike(given[0], np.asarray(own[0])) is None:
        return None
    moved = [
        (x if (y := alike(x, np.asarray(other))) is None else y, other)
        for x, other in zip(given, own, strict=True)
    ]
    queue = iter([jnp.asarray(x).astype(other.dtype) for x, other in moved])
    return mapped(result, lambda x: next(queue) if isinstance(x, jax.Array) else x)


def _first_replaced(result: Any, given: np.ndarray) -> Any:
    """A result with another array as its first one; unchanged if that has another shape."""
    if isinstance(result, tuple) and result:
        first = _first_replaced(result[0], given)
        rest = result[1:]
        return type(result)(first, *rest) if hasattr(result, "_fields") else (first, *rest)
    if not isinstance(result, jax.Array):
        return result
    moved = alike(given, np.asarray(result))
    return result if moved is None else jnp.asarray(moved.astype(result.dtype))


def call_torch(
    module: torch.nn.Module, record: Record, dtype: torch.dtype | None = None
) -> dict[str, np.ndarray]:
    """Call a PyTorch submodule with recorded arguments, floating-point ones in a dtype."""

    def given(x: Any) -> Any:
        x = _tensor(x)
        return (
            x.to(dtype) if dtype is not None and isinstance(x, torch.Tensor) and x.is_floating_point() else x
        )

    args, kwargs = mapped((record.args, {**record.kwargs}), given)
    with torch.no_grad():
        return fields(module(*args, **kwargs))


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
    given, own = theirs.nested(), ours.nested()
    if len(given) == len(own):
        moved = [alike(x, other) for x, other in zip(given, own, strict=True)]
        if any(x is None for x in moved):
            return None
        return _filled(ours, moved, deep=True)
    given, own = theirs.arrays(), ours.arrays()
    if len(given) == len(own):
        moved = [alike(x, other) for x, other in zip(given, own, strict=True)]
    else:  # positions and masks that only one of the models passes on: the port keeps its own
        moved = list(own)
        places = [number for number, x in enumerate(own) if is_float(x)]
        for right, place in fitting([x for x in given if is_float(x)], [own[n] for n in places]):
            moved[places[place]] = alike(right, own[places[place]])
    return None if any(x is None for x in moved) else _filled(ours, moved, deep=False)


def _filled(
    ours: Record, arrays: list[np.ndarray | None], *, deep: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with other arrays in their order; with `deep` also those in tuples and the like."""
    queue = iter(arrays)

    def next_of(x: Any) -> Any:
        return jnp.asarray(next(queue).astype(x.dtype)) if isinstance(x, np.ndarray) else x  # type: ignore[union-attr]

    args, kwargs = ours.args, {**ours.kwargs}
    if deep:
        return mapped((args, kwargs), next_of)
    made = [next_of(x) for x in args], {name: next_of(x) for name, x in kwargs.items()}
    return mapped((tuple(made[0]), made[1]), _jax)


def fitting(given: list[np.ndarray], own: list[np.ndarray]) -> list[tuple[np.ndarray, int]]:
    """Arrays, each with the number of the next one of another list, in order, that it fits."""
    found, first = [], 0
    for x in given:
        place = next((n for n in range(first, len(own)) if alike(x, own[n]) is not None), None)
        if place is not None:
            found.append((x, place))
            first = place + 1
    return found


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


def is_additive_mask(x: np.ndarray) -> bool:
    """Whether an array holds zeros, and numbers so negative that they hide a key."""
    return is_float(x) and x.ndim > 1 and bool(((x == 0) | (x <= HIDDEN)).all())


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


def _copied(x: Any) -> Any:
    """Arguments with arrays in numpy, as they are before the call changes them."""
    return mapped(x, lambda each: deepcopy(each) if _is_cache(each) else _numpy(each))


def _is_cache(x: Any) -> bool:
    return type(x).__module__ == "transformers.cache_utils"


def _tensor(x: Any) -> Any:
    return to_torch(x) if isinstance(x, np.ndarray) else deepcopy(x) if _is_cache(x) else x


def _jax(x: Any) -> Any:
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def fields(result: Any) -> dict[str, np.ndarray]:
    """The arrays of a result by name; none if it holds objects of other kinds."""
    try:
        found = named_outputs(result)
    except TypeError:
        return {}
    return {name: to_numpy(name, x) if hasattr(x, "dtype") else np.asarray(x) for name, x in found.items()}
