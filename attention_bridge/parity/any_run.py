"""Run any PyTorch or JAX model on numpy inputs, forward and backward, with results in numpy.

`attention_bridge.parity.run` defines the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from attention_bridge.parity.calls import Calls
from attention_bridge.parity.jax_models import JaxModel
from attention_bridge.parity.run import Arrays, Run, is_float, real_outputs, run_torch_function, weighted_sum
from attention_bridge.weights.containers import open_container
from attention_bridge.weights.leaves import to_numpy

Picked = Callable[[Any], Any] | None


class JaxRun(NamedTuple):
    """One run of a JAX model.

    Attributes:
        outputs: outputs by name.
        of_parameters: gradients of the parameters, by their names in JAX.
        of_inputs: gradients of the floating-point inputs.
    """

    outputs: Arrays
    of_parameters: Arrays
    of_inputs: Arrays


class _Called(torch.nn.Module):
    """A model that takes its inputs through the function of `Calls`."""

    def __init__(self, module: torch.nn.Module, calls: Calls, picked: Picked) -> None:
        super().__init__()
        self.module, self.calls, self.picked = module, calls, picked

    def forward(self, **inputs: Any) -> Any:
        result = self.calls.call_torch(self.module, inputs)
        return result if self.picked is None else self.picked(result)


def run_torch_model(
    module: torch.nn.Module,
    calls: Calls,
    inputs: Arrays,
    picked: Picked = None,
    loss_over: Collection[str] | None = None,
) -> Run:
    """Run a PyTorch model.

    Args:
        module: the model.
        calls: how it is called.
        inputs: inputs by name.
        picked: function of the result whose result counts; None for the whole result.
        loss_over: names of the outputs in the loss; None for all.
    """
    called = _Called(module, calls, picked)
    parameters = {name: x.detach().requires_grad_() for name, x in module.named_parameters()}
    placed = {f"module.{name}": x for name, x in parameters.items()}

    def function(**tensors: Any) -> Any:
        return torch.func.functional_call(called, placed, kwargs=tensors)

    return run_torch_function(function, parameters, inputs, loss_over)


def run_jax_model(
    model: JaxModel, calls: Calls, picked: Picked = None, loss_over: Collection[str] | None = None
) -> JaxRun:
    """Run a JAX model, compiled, on JAX's default device; arguments as in `run_torch_model`."""
    arrays = {name: jnp.asarray(x) for name, x in calls.inputs.items() if isinstance(x, np.ndarray)}
    static = {name: x for name, x in calls.inputs.items() if name not in arrays}
    floats = {name: arrays.pop(name) for name, x in calls.inputs.items() if is_float(x)}

    def loss(parameters: Any, floats: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        result = calls.call_jax(model.with_parameters(parameters), {**static, **arrays, **floats})
        outputs = real_outputs(result if picked is None else picked(result))
        return weighted_sum(outputs, loss_over), outputs

    backward = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True, allow_int=True))
    (of_parameters, of_inputs), outputs = backward(model.parameters, floats)
    leaves = open_container(of_parameters).leaves
    gradients = {name: x for name, x in leaves.items() if x.dtype != jax.dtypes.float0}
    return JaxRun(
        {name: np.asarray(x) for name, x in outputs.items()},
        {name: to_numpy(name, x) for name, x in gradients.items()},
        {name: np.asarray(x) for name, x in of_inputs.items()},
    )
