"""Runs of one side of a draft with any values in its tensors; the module itself keeps its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from attention_bridge.errors import InputError, cut
from attention_bridge.weights.containers import Container
from attention_bridge.weights.leaves import framework, is_jax, is_torch, like, to_numpy, to_torch

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], list[np.ndarray]]


def runner(
    holder: Any, container: Container, function: Callable[..., Any] | None, inputs: Any, which: str
) -> Run:
    """A function of arrays by name that returns the outputs of one side.

    Args:
        holder: PyTorch, Flax NNX or Equinox module; with a function, any object with tensors.
        container: its tensors.
        function: function of the tensors by name and of the inputs; None to call the module itself.
        inputs: one input, a tuple of positional inputs, or a mapping of inputs by name.
        which: name of the side for messages, "a" or "b".

    Raises:
        InputError: there is neither a function nor a module that can be called.
    """
    args, kwargs = _split(inputs)
    torch, nnx = framework("torch"), framework("flax.nnx")
    if function is not None:
        call = _of_function(function, container)
    elif torch is not None and isinstance(holder, torch.nn.Module):
        call = _of_torch(torch, holder)
    elif nnx is not None and isinstance(holder, nnx.Module):
        call = _of_nnx(nnx, holder)
    elif callable(holder):
        call = _of_equinox(holder, container)
    else:
        raise InputError(
            f"inputs= needs {which} to be a PyTorch, Flax NNX or Equinox module, or functions= with a function that "
            f"runs its tensors, got {type(holder).__name__}"
        )
    kept = {name: to_numpy(name, leaf) for name, leaf in container.leaves.items()}

    def run(arrays: Arrays) -> list[np.ndarray]:
        try:
            result = call({**kept, **arrays}, args, kwargs)
        except Exception as error:
            raise InputError(
                cut(f"{which} cannot be run with the inputs: {type(error).__name__}: {error}")
            ) from error
        return outputs(result)

    return run


def _split(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional inputs and inputs by name."""
    if isinstance(inputs, Mapping):
        return (), {name: _plain(name, x) for name, x in inputs.items()}
    given = inputs if isinstance(inputs, tuple | list) else (inputs,)
    return tuple(_plain(f"inputs[{number}]", x) for number, x in enumerate(given)), {}


def _plain(name: str, x: Any) -> Any:
    return to_numpy(name, x) if is_torch(x) or is_jax(x) else x


Call = Callable[[Arrays, Sequence[Any], Mapping[str, Any]], Any]


def _of_function(function: Callable[..., Any], container: Container) -> Call:
    def call(arrays: Arrays, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        sample = next(iter(container.leaves.values()))
        tensors = {name: like(leaf, arrays[name]) for name, leaf in container.leaves.items()}

        def cast(x: Any) -> Any:
            return like(sample, x) if isinstance(x, np.ndarray) and not isinstance(sample, np.ndarray) else x

        torch = framework("torch")
        given = {name: x.detach() if is_torch(x) else x for name, x in tensors.items()}
        if torch is None:
            return function(given, *map(cast, args), **{name: cast(x) for name, x in kwargs.items()})
        with torch.no_grad():
            return function(given, *map(cast, args), **{name: cast(x) for name, x in kwargs.items()})

    return call


def _of_torch(torch: Any, module: Any) -> Call:
    device = next((x.device for x in module.state_dict().values()), torch.device("cpu"))

    def call(arrays: Arrays, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        def cast(x: Any) -> Any:
            return to_torch(x).to(device) if isinstance(x, np.ndarray) else x

        tensors = {name: to_torch(x).to(device) for name, x in arrays.items()}
        given, named = tuple(map(cast, args)), {name: cast(x) for name, x in kwargs.items()}
        with _in_evaluation(module), torch.no_grad():
            return torch.func.functional_call(module, tensors, given, named, tie_weights=False)

    return call


@contextmanager
def _in_evaluation(module: Any) -> Any:
    """Without dropout and updates of statistics; each submodule then is as it was."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode


def _of_nnx(nnx: Any, module: Any) -> Call:
    from attention_bridge.weights.containers import open_container

    jax = framework("jax")
    copy = nnx.clone(module)
    copy.eval()
    graph, state = nnx.split(copy)

    def compute(arrays: Any, given: Any, named: Any) -> Any:
        return nnx.merge(graph, arrays)(*given, **named)

    compiled = jax.jit(compute)

    def call(arrays: Arrays, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        filled = open_container(state).put(arrays)
        given = tuple(jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x for x in args)
        named = {name: jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x for name, x in kwargs.items()}
        if all(is_jax(x) for x in (*given, *named.values())):
            return compiled(filled, given, named)
        return compute(filled, given, named)

    return call


def _of_equinox(module: Any, container: Container) -> Call:
    def call(arrays: Arrays, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        jax = framework("jax")
        given = (jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x for x in args)
        return container.put(arrays)(*given, **kwargs)

    return call


def outputs(result: Any) -> list[np.ndarray]:
    """The arrays in a nested result of tuples, lists, mappings and dataclasses, in order."""
    if result is None:
        return []
    if isinstance(result, np.ndarray) or is_torch(result) or is_jax(result):
        array = to_numpy("output", result)
        return [array if array.dtype.kind in "biu" else array.astype(np.float64)]
    if isinstance(result, Mapping):
        return [x for value in result.values() for x in outputs(value)]
    if isinstance(result, tuple | list):
        return [x for value in result for x in outputs(value)]
    fields = getattr(result, "__dataclass_fields__", None)
    return [] if fields is None else [x for name in fields for x in outputs(getattr(result, name))]


def difference(ones: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """The largest difference between outputs, relative to the largest value; the last axis may be the channels.

    Raises:
        InputError: the outputs differ in number or shape.
    """
    worst = 0.0
    if len(ones) != len(others) or not ones:
        raise InputError(
            f"a and b must return the same number of arrays, at least one, got {len(ones)} and {len(others)}"
        )
    for one, other in zip(ones, others, strict=True):
        if one.shape != other.shape and other.ndim > 2 and np.moveaxis(other, -1, 1).shape == one.shape:
            other = np.moveaxis(other, -1, 1)
        elif one.shape != other.shape and one.ndim > 2 and np.moveaxis(one, -1, 1).shape == other.shape:
            one = np.moveaxis(one, -1, 1)
        if one.shape != other.shape:
            raise InputError(
                f"a and b must return arrays of the same shape, got {one.shape} and {other.shape}"
            )
        wide = one.astype(np.float64), other.astype(np.float64)
        if not all(np.isfinite(x).all() for x in wide):
            return float("inf")
        largest = np.abs(wide[0]).max(initial=0.0)
        worst = max(worst, float(np.abs(wide[0] - wide[1]).max(initial=0.0) / max(largest, 1e-30)))
    return worst
