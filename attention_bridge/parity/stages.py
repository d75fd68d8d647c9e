"""The first submodule, in the order of the computation, whose outputs differ between two modules."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from attention_bridge.parity.run import call_with, named_outputs
from attention_bridge.weights.leaves import to_numpy, to_torch

Stages = dict[str, np.ndarray]


def first_diverging_stage(
    torch_module: torch.nn.Module,
    jax_module: nnx.Module,
    inputs: Mapping[str, Any],
    differs: Callable[[np.ndarray, np.ndarray], bool],
    positional: Collection[str] = (),
) -> str | None:
    """Find the first submodule whose outputs differ on equal inputs.

    Args:
        torch_module: the PyTorch module.
        jax_module: the JAX module; submodules are matched by path.
        inputs: arguments of both calls by name, arrays in numpy.
        differs: function that says whether two arrays differ.
        positional: inputs passed to the JAX module by position, because it may name them differently.

    Returns:
        Path of the submodule and field of its result; None if no submodule differs.
    """
    ours, theirs = torch_stages(torch_module, inputs), jax_stages(jax_module, inputs, positional)
    shared = (name for name in ours if name in theirs)
    return next((name for name in shared if differs(ours[name], theirs[name])), None)


def torch_stages(module: torch.nn.Module, inputs: Mapping[str, Any]) -> Stages:
    """Outputs of every submodule of a torch module, in the order of the computation."""
    stages: Stages = {}
    with ExitStack() as hooks, torch.no_grad():
        for path, part in module.named_modules():
            if path:
                hook = part.register_forward_hook(
                    lambda _, __, result, path=path: _record(stages, path, result)
                )
                hooks.callback(hook.remove)
        module(**{name: to_torch(x) if isinstance(x, np.ndarray) else x for name, x in inputs.items()})
    return stages


def jax_stages(module: nnx.Module, inputs: Mapping[str, Any], positional: Collection[str] = ()) -> Stages:
    """Outputs of every submodule of an NNX module, in the order of the computation."""
    stages: Stages = {}
    paths = {id(part): ".".join(map(str, path)) for path, part in nnx.iter_modules(module)}
    arrays = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in inputs.items()}
    with _recorded_calls({type(part) for _, part in nnx.iter_modules(module)}, paths, stages):
        call_with(module, arrays, positional)
    return stages


@contextmanager
def _recorded_calls(classes: set[type], paths: Mapping[int, str], stages: Stages) -> Iterator[None]:
    """Record the results of the classes' `__call__` while the context is active, since NNX has no hooks."""
    with ExitStack() as patches:
        for cls in classes:
            if "__call__" in vars(cls):
                patches.enter_context(
                    mock.patch.object(cls, "__call__", _recording(cls.__call__, paths, stages))
                )
        yield


def _recording(call: Callable[..., Any], paths: Mapping[int, str], stages: Stages) -> Callable[..., Any]:
    def recorded(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
        result = call(self, *args, **kwargs)
        if path := paths.get(id(self)):
            _record(stages, path, result)
        return result

    return recorded


def _record(stages: Stages, path: str, result: Any) -> None:
    for field, array in named_outputs(result).items():
        stages[f"{path} ({field})"] = to_numpy(path, array) if hasattr(array, "dtype") else np.asarray(array)
