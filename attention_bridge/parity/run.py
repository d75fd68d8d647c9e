"""Run a module of either framework on numpy inputs, forward and backward, with results in numpy.

The loss is the sum of all outputs, each multiplied by fixed random numbers, so that an error in any part of an output
shows in a gradient. PyTorch is imported only where it runs, so that JAX can run without it.
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
    """Outputs and gradients of one run of a module.

    Attributes:
        outputs: outputs by field of the result, such as `output` or `weights`; elements of a tuple as `weights.0`.
        gradients: gradients by input or parameter; parameters have their PyTorch names.
    """

    outputs: Arrays
    gradients: Arrays


# Fields of models under the names that attention modules use.
SHORT_NAMES = {"logits": "output", "last_hidden_state": "output", "attentions": "weights"}


def named_outputs(result: Any, name: str = "output") -> dict[str, Any]:
    """The arrays and numbers in a nested result of tuples, lists and dicts, by name.

    None is omitted, and so are the caches that models of transformers return.

    Raises:
        TypeError: the result holds another type.
    """
    if result is None or type(result).__module__ == "transformers.cache_utils":
        return {}
    if isinstance(result, Mapping):
        parts = {f"{name}.{key}": value for key, value in result.items()}
    elif isinstance(result, tuple | list):
        fields = getattr(result, "_fields", None) or [f"{name}.{i}" for i in range(len(result))]
        if hasattr(result, "_fields") and hasattr(result, "output"):  # a result of the mirrors
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
    """Short names of the fields; with `logits`, `last_hidden_state` keeps its own name."""
    short: list[str] = []
    for field in fields:
        name = SHORT_NAMES.get(field, field)
        short.append(field if name in short else name)
    return short


def real_outputs(result: Any) -> dict[str, Any]:
    """The arrays and numbers of a result as in `named_outputs`, none of them complex.

    Raises:
        TypeError: an array is complex, or the result holds another type.
    """
    outputs = named_outputs(result)
    for name, x in outputs.items():
        if "complex" in str(getattr(x, "dtype", "")):
            raise TypeError(NOT_COMPARABLE.format(name, x.dtype))
    return outputs


def on_bfloat16_grid(numbers: np.ndarray) -> np.ndarray:
    """Round to bfloat16 values, stored in float64; every dtype of the proof holds them exactly."""
    return numbers.astype(ml_dtypes.bfloat16).astype(np.float64)


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    """Fixed random numbers that multiply an output of this shape in the loss."""
    return on_bfloat16_grid(np.random.default_rng(shape).standard_normal(shape))


def bind(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Bind the arguments of a call of a torch module to their names."""
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def is_float(value: Any) -> bool:
    """Whether `value` is an array of floating-point numbers (bfloat16 included)."""
    return isinstance(value, np.ndarray) and jnp.issubdtype(value.dtype, np.floating)


def torch_device(platform: str) -> torch.device:
    """The device of PyTorch while JAX runs on `platform`: the GPU if it is requested and available, else the CPU."""
    import torch

    return torch.device("cuda" if platform == "gpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def on_platform(platform: str, *, float64: bool) -> Iterator[None]:
    """Run JAX on the first device of `platform`, with 64-bit types if `float64`.

    Raises:
        PlatformError: the machine has no such device.
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
    """Run a torch module, forward and backward, on the device of its parameters.

    Args:
        module: the module, called with `inputs` by name.
        inputs: numpy arrays, and other values that are passed unchanged.
        loss_over: names of the outputs in the loss; None for all.

    Returns:
        The outputs, and the gradients of all floating-point inputs and all parameters.
    """
    import torch

    # Detached tensors: frozen parameters get gradients too, and the module stays unchanged.
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
    """Run a function of torch tensors; gradients are taken of `parameters` and all floating-point inputs."""
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
    """Call `module` with `inputs` by name, and those in `positional` by position."""
    named = dict(inputs)
    return module(*[named.pop(name) for name in positional], **named)


def run_jax(
    module: nnx.Module,
    inputs: Mapping[str, Any],
    loss_over: Collection[str] | None = None,
    positional: Collection[str] = (),
) -> Run:
    """Run an NNX module, compiled, forward and backward on JAX's default device; arguments as in `run_torch`."""
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
    """The arguments with which `forward_backward` runs `module` on `inputs`."""
    graphdef, *states = nnx.split(module, nnx.Param, ...)
    parameters, rest = states
    floats = {name: jnp.asarray(x) for name, x in inputs.items() if is_float(x)}
    others = {
        name: jnp.asarray(x) for name, x in inputs.items() if isinstance(x, np.ndarray) and not is_float(x)
    }
    static = tuple((name, x) for name, x in inputs.items() if not isinstance(x, np.ndarray))
    counted = None if loss_over is None else frozenset(loss_over)
    return graphdef, parameters, rest, floats, others, static, counted, tuple(positional)


def weighted_sum(outputs: Mapping[str, Any], loss_over: Collection[str] | None) -> jax.Array:
    """The loss in JAX: the sum of all floating-point outputs, or of those named, times their fixed random numbers."""
    counted = [
        x
        for name, x in outputs.items()
        if (loss_over is None or name in loss_over)
        and hasattr(x, "dtype")
        and jnp.issubdtype(x.dtype, jnp.floating)
    ]
    start = jnp.zeros((), counted[0].dtype if counted else None)
    return sum(((x * cotangent(x.shape).astype(x.dtype)).sum() for x in counted), start)


@partial(jax.jit, static_argnames=("graphdef", "static", "loss_over", "positional"))
def forward_backward(
    graphdef: nnx.GraphDef[Any],
    parameters: nnx.State[Any, Any],
    rest: nnx.State[Any, Any],
    floats: dict[str, jax.Array],
    others: dict[str, jax.Array],
    static: tuple[tuple[str, Any], ...],
    loss_over: frozenset[str] | None,
    positional: tuple[str, ...],
) -> tuple[dict[str, jax.Array], tuple[nnx.State[Any, Any], dict[str, jax.Array]]]:
    """Outputs of a module, and gradients of its parameters and floating-point inputs, compiled."""

    def loss(
        parameters: nnx.State[Any, Any], floats: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        module = nnx.merge(graphdef, parameters, rest)
        outputs = real_outputs(call_with(module, {**floats, **others, **dict(static)}, positional))
        return weighted_sum(outputs, loss_over), outputs

    gradients, outputs = jax.grad(loss, argnums=(0, 1), has_aux=True)(parameters, floats)
    return outputs, gradients
