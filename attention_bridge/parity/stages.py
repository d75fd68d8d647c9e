"""The first submodule, in the order of the computation, whose outputs differ between two modules."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from attention_bridge.parity.calls import Calls
from attention_bridge.parity.run import named_outputs
from attention_bridge.weights.leaves import to_numpy, to_torch

Stages = dict[tuple[str, str], np.ndarray]  # by path and field
Watch = Callable[[str, tuple[Any, ...], dict[str, Any], Any], Any]
Before = Callable[[str, tuple[Any, ...], dict[str, Any]], Any]
CALL = object()  # a function of the kind `Before` returns it for a call that shall run


def first_diverging_stage(
    torch_module: torch.nn.Module,
    jax_module: Any,
    calls: Calls,
    differs: Callable[[np.ndarray, np.ndarray], bool],
    paths: Mapping[str, str],
) -> str | None:
    """Find the first submodule whose outputs differ on equal inputs of the whole.

    Args:
        torch_module: the PyTorch module.
        jax_module: the JAX module.
        calls: the inputs, and how each module takes them.
        differs: function that says whether two arrays differ.
        paths: paths of PyTorch's submodules, and JAX's paths of the same submodules.

    Returns:
        Path of the submodule in PyTorch and field of its result; None if no submodule differs.
    """
    if not paths:
        return None
    ours, theirs = torch_stages(torch_module, calls), jax_stages(jax_module, calls)
    for (path, field), array in ours.items():
        other = theirs.get((paths.get(path, ""), field))
        if other is not None and differs(array, other):
            return f"{path} ({field})"
    return None


def torch_stages(module: torch.nn.Module, calls: Calls) -> Stages:
    """Outputs of every submodule of a torch module, in the order of the computation."""
    stages: Stages = {}
    inputs = {name: to_torch(x) if isinstance(x, np.ndarray) else x for name, x in calls.inputs.items()}
    with ExitStack() as hooks, torch.no_grad():
        for path, part in module.named_modules():
            if path:
                hook = part.register_forward_hook(
                    lambda _, __, result, path=path: _record(stages, path, result)
                )
                hooks.callback(hook.remove)
        calls.call_torch(module, inputs)
    return stages


def jax_stages(module: nnx.Module, calls: Calls) -> Stages:
    """Outputs of every submodule of an NNX module, in the order of the computation."""
    stages: Stages = {}

    def watch(path: str, _: Any, __: Any, result: Any) -> Any:
        _record(stages, path, result)
        return result

    arrays = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in calls.inputs.items()}
    with watched(module, watch):
        calls.call_jax(module, arrays)
    return stages


def submodules(module: nnx.Module) -> dict[str, nnx.Module]:
    """The submodules of an NNX module by path; the module itself has the path `""`."""
    return {".".join(map(str, path)): part for path, part in nnx.iter_modules(module)}


@contextmanager
def watched(
    module: nnx.Module,
    watch: Watch,
    before: Before | None = None,
    parts: Mapping[str, nnx.Module] | None = None,
) -> Iterator[None]:
    """Watch the calls of all submodules of an NNX module while the context is active, since NNX has no hooks.

    A class that inherits its call, or calls the one of its base class, is watched once at each call.

    Args:
        module: the module.
        watch: function of a submodule's path, its arguments and its result, which returns the result to be used.
        before: function of a submodule's path and its arguments that is called first, and returns `CALL`, or a result
            that replaces the call; None for none.
        parts: the submodules by path; None lists them.
    """
    parts = submodules(module) if parts is None else parts
    paths = {id(part): path for path, part in parts.items()}
    running: set[int] = set()

    def watching(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            path = paths.get(id(self))
            if not path or id(self) in running:
                return call(self, *args, **kwargs)
            given = CALL if before is None else before(path, args, kwargs)
            if given is not CALL:
                return given
            running.add(id(self))
            try:
                result = call(self, *args, **kwargs)
            finally:
                running.remove(id(self))
            return watch(path, args, kwargs, result)

        return called

    with ExitStack() as patches:
        classes = {type(part) for part in parts.values()}
        defines = {cls: any("__call__" in vars(base) for base in cls.__mro__) for cls in classes}
        calls = {cls: cls.__call__ for cls in classes if defines[cls]}
        for cls, call in calls.items():
            patches.enter_context(mock.patch.object(cls, "__call__", watching(call)))
        yield


def _record(stages: Stages, path: str, result: Any) -> None:
    """Record the arrays of a result; results of other types, such as caches, are no stage."""
    try:
        fields = named_outputs(result)
    except TypeError:
        return
    for field, array in fields.items():
        stages[path, field] = to_numpy(path, array) if hasattr(array, "dtype") else np.asarray(array)
