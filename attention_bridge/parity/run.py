"""Running a module of either framework on numpy inputs, forward and backward, with results in numpy.

The loss whose gradients are taken is the sum of all outputs, each times fixed random numbers, so that no part of
an output can be wrong without a gradient showing it. PyTorch is imported where it runs, so that JAX can run without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

from attention_bridge.errors import PlatformError
from attention_bridge.weights import convert
from attention_bridge.weights.containers import open_container
from attention_bridge.weights.leaves import to_numpy, to_torch

if TYPE_CHECKING:
    import torch

Arrays = dict[str, np.ndarray]
NOT_COMPARABLE = "{} must be a real array, a number, None, or a tuple, list or dict of these, got {}"


@dataclass(frozen=True)
class Run:
    """What a module made of its inputs.

    Attributes:
        outputs: by field of the result, as `output` or `weights`; elements of a tuple as `weights.0`.
        gradients: by input or parameter, the latter by their names in PyTorch.
    """

    outputs: Arrays
    gradients: Arrays


# What results of models and of attention have in common, under one name.
SHORT_NAMES = {"logits": "output", "last_hidden_state": "output", "attentions": "weights"}


def named_outputs(result: Any, name: str = "output") -> dict[str, Any]:
    """The arrays and numbers in a result of tuples, lists and dicts, by name; None is left out.

    Raises:
        TypeError: something in it is neither.
    """
    if result is None:
        return {}
    if isinstance(result, Mapping):
        parts = {f"{name}.{key}": value for key, value in result.items()}
    elif isinstance(result, tuple | list):
        fields = getattr(result, "_fields", None) or [f"{name}.{i}" for i in range(len(result))]
        if hasattr(result, "_fields") and hasattr(result, "output"):  # one of the mirrors' own
            fields = _short(fields)
        parts = dict(zip(fields, result, strict=True))
    elif hasattr(result, "dtype") or isinstance(result, bool | int | float):
        return {name: result}
    else:
        raise TypeError(NOT_COMPARABLE.format(name, type(result).__name__))
    return {
        key: array for field, value in parts.items() for key, array in named_outputs(value, field).items()
    }


def _short(fields: Sequence[str]) -> list[str]:
    """The names of outputs; what has logits has its last hidden state by its own name."""
    short: list[str] = []
    for field in fields:
        name = SHORT_NAMES.get(field, field)
        short.append(field if name in short else name)
    return short


def real_outputs(result: Any) -> dict[str, Any]:
    """The same, of a result that can be compared.

    Raises:
        TypeError: an array of it is complex.
    """
    outputs = named_outputs(result)
    for name, x in outputs.items():
        if "complex" in str(getattr(x, "dtype", "")):
            raise TypeError(NOT_COMPARABLE.format(name, x.dtype))
    return outputs


def on_bfloat16_grid(numbers: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 numbers, in float64: every dtype of the proof holds them exactly."""
    return numbers.astype(ml_dtypes.bfloat16).astype(np.float64)


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    """The fixed random numbers that an output of this shape is multiplied by in the loss."""
    return on_bfloat16_grid(np.random.default_rng(shape).standard_normal(shape))


def bind(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a torch module, each by name."""
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def is_float(value: Any) -> bool:
    """Whether `value` is an array of floating-point numbers (bfloat16 included)."""
    return isinstance(value, np.ndarray) and jnp.issubdtype(value.dtype, np.floating)


def torch_device(platform: str) -> torch.device:
    """Where PyTorch runs when JAX runs on `platform`: the GPU if that is asked for and there, else the CPU."""
    import torch

    return torch.device("cuda" if platform == "gpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def on_platform(platform: str, *, float64: bool) -> Iterator[None]:
    """JAX on the first device of `platform`, with 64-bit numbers if they are wanted.

    Raises:
        PlatformError: there is no such device.
    """
    try:
        device = jax.devices(platform)[0]
    except RuntimeError as error:
        found = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise PlatformError(f"platform {platform} is not on this machine: JAX finds {found}") from error
    with jax.default_device(device), jax.enable_x64(float64):
        yield


def run_torch(
    module: torch.nn.Module, inputs: Mapping[str, Any], loss_over: Collection[str] | None = None
) -> Run:
    """Run a torch module where its parameters are.

    Args:
        module: called with `inputs` by name.
        inputs: numpy arrays, and values that are passed on as they are.
        loss_over: the outputs whose gradients are taken; all of them if None.

    Returns:
        Its outputs, and gradients of all floating-point inputs and of all parameters.
    """
    import torch

    # Copies: gradients of frozen parameters are taken too, and the module stays as it is.
    parameters = {name: x.detach().requires_grad_() for name, x in module.named_parameters()}

    def function(**tensors: Any) -> Any:
        return torch.func.functional_call(module, parameters, kwargs=tensors)

    return run_torch_function(function, parameters, inputs, loss_over)


def run_torch_function(
    function: Callable[..., Any],
    parameters: Mapping[str, torch.Tensor],
    inputs: Mapping[str, Any],
    loss_over: Collection[str] | None = None,
) -> Run:
    """Run any function of torch tensors; gradients are of `parameters` and of all floating-point inputs."""
    import torch

    device = next((parameter.device for parameter in parameters.values()), torch.device("cpu"))
    tensors = {name: to_torch(x).to(device) if isinstance(x, np.ndarray) else x for name, x in inputs.items()}
    differentiated = {name: tensors[name].requires_grad_() for name, x in inputs.items() if is_float(x)}
    differentiated.update(parameters)
    with torch.enable_grad():
        outputs = real_outputs(function(**tensors))
        counted = [
            x
            for name, x in outputs.items()
            if (loss_over is None or name in loss_over) and isinstance(x, torch.Tensor) and x.requires_grad
        ]
        weighted = [(x * torch.from_numpy(cotangent(tuple(x.shape))).to(x)).sum() for x in counted]
        wanted = list(differentiated.values())
        gradients = [torch.zeros_like(x) for x in wanted]
        if weighted:
            gradients = list(torch.autograd.grad(weighted, wanted, materialize_grads=True))
    return Run(
        {name: to_numpy(name, x) if hasattr(x, "dtype") else np.asarray(x) for name, x in outputs.items()},
        {name: to_numpy(name, x) for name, x in zip(differentiated, gradients, strict=True)},
    )


def call_with(module: Callable[..., Any], inputs: Mapping[str, Any], positional: Collection[str]) -> Any:
    """Call `module` with `inputs` by name, but for those in `positional`, which it may name otherwise."""
    named = dict(inputs)
    return module(*[named.pop(name) for name in positional], **named)


def run_jax(
    module: nnx.Module,
    inputs: Mapping[str, Any],
    loss_over: Collection[str] | None = None,
    positional: Collection[str] = (),
) -> Run:
    """Run an NNX module, compiled, on JAX's default device; like `run_torch`, and see `call_with`."""
    outputs, (of_parameters, of_inputs) = forward_backward(
        *arguments_in_jax(module, inputs, loss_over, positional)
    )
    flat = {name: to_numpy(name, leaf) for name, leaf in open_container(of_parameters).leaves.items()}
    renamed, _ = convert(flat, "jax_attention", "torch_attention")
    gradients = {name: np.asarray(x) for name, x in of_inputs.items()} | renamed
    return Run({name: np.asarray(x) for name, x in outputs.items()}, gradients)


def arguments_in_jax(
    module: nnx.Module,
    inputs: Mapping[str, Any],
    loss_over: Collection[str] | None = None,
    positional: Collection[str] = (),
) -> tuple[Any, ...]:
    """What `forward_backward` is called with to run `module` on `inputs`; see `run_jax`."""
    graphdef, *states = nnx.split(module, nnx.Param, ...)
    parameters, rest = states
    floats = {name: jnp.asarray(x) for name, x in inputs.items() if is_float(x)}
    others = {
        name: jnp.asarray(x) for name, x in inputs.items() if isinstance(x, np.ndarray) and not is_float(x)
    }
    static = tuple((name, x) for name, x in inputs.items() if not isinstance(x, np.ndarray))
    counted = None if loss_over is None else frozenset(loss_over)
    return graphdef, parameters, rest, floats, others, static, counted, tuple(positional)


@partial(jax.jit, static_argnames=("graphdef", "static", "loss_over", "positional"))
def forward_backward(
    graphdef: nnx.GraphDef,
    parameters: nnx.State,
    rest: nnx.State,
    floats: dict[str, jax.Array],
    others: dict[str, jax.Array],
    static: tuple[tuple[str, Any], ...],
    loss_over: frozenset[str] | None,
    positional: tuple[str, ...],
) -> tuple[dict[str, jax.Array], tuple[nnx.State, dict[str, jax.Array]]]:
    """The outputs of a module, and the gradients of its parameters and of its floating-point inputs, compiled."""

    def loss(parameters: nnx.State, floats: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        module = nnx.merge(graphdef, parameters, rest)
        outputs = real_outputs(call_with(module, {**floats, **others, **dict(static)}, positional))
        counted = [
            x
            for name, x in outputs.items()
            if (loss_over is None or name in loss_over)
            and hasattr(x, "dtype")
            and jnp.issubdtype(x.dtype, jnp.floating)
        ]
        start = jnp.zeros((), counted[0].dtype if counted else None)
        return sum(((x * cotangent(x.shape).astype(x.dtype)).sum() for x in counted), start), outputs

    gradients, outputs = jax.grad(loss, argnums=(0, 1), has_aux=True)(parameters, floats)
    return outputs, gradients
