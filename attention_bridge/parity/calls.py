"""How a pair of models is called: the inputs by name, and a function for each model that does not take them so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import ml_dtypes
import numpy as np
import torch

from attention_bridge.errors import InputError
from attention_bridge.parity.run import bind, call_with
from attention_bridge.weights.leaves import to_numpy

Call = Callable[..., Any]
ARRAYS = (np.ndarray, jax.Array, torch.Tensor)
SEED = 0


@dataclass(frozen=True)
class Calls:
    """The inputs of a pair of models, and how each model takes them.

    Attributes:
        inputs: inputs by name: arrays of numpy, and other values that are passed unchanged.
        positional: names of the inputs that are passed by position.
        of_torch: function of the PyTorch model and the inputs; None calls the model itself, with the inputs by name.
        of_jax: function of the JAX model and the inputs; None calls the model itself.
    """

    inputs: dict[str, Any]
    positional: tuple[str, ...] = ()
    of_torch: Call | None = None
    of_jax: Call | None = None

    def call_torch(self, model: Call, inputs: Mapping[str, Any]) -> Any:
        """Call the PyTorch model with inputs by name."""
        if self.of_torch is None:
            return model(**inputs)
        return call_with(partial(self.of_torch, model), inputs, self.positional)

    def call_jax(self, model: Call, inputs: Mapping[str, Any]) -> Any:
        """Call the JAX model with inputs by name, or by position if `positional` has it."""
        called = model if self.of_jax is None else partial(self.of_jax, model)
        return call_with(called, inputs, self.positional)


def calls(
    torch_module: torch.nn.Module,
    inputs: tuple[Any, ...],
    keywords: Mapping[str, Any],
    of_torch: Call | None = None,
    of_jax: Call | None = None,
) -> Calls:
    """Name the inputs as the call in PyTorch does, and make those that are only described.

    Args:
        torch_module: the PyTorch model.
        inputs: inputs by position: arrays of either framework or numpy, `jax.ShapeDtypeStruct`s, or other values. For
            a `jax.ShapeDtypeStruct` random numbers are drawn; integers are below the number of rows of the smallest
            embedding of the model.
        keywords: inputs by name.
        of_torch, of_jax: functions that call the models, as in `Calls`.

    Raises:
        InputError: the inputs do not fit the call.
    """
    try:
        if of_torch is None:
            bound = bind(torch_module, inputs, keywords)
        else:
            bound = dict(inspect.signature(of_torch).bind(torch_module, *inputs, **keywords).arguments)
            bound.pop(next(iter(bound)))
    except TypeError as error:
        raise InputError(f"the inputs must fit the call of {type(torch_module).__name__}: {error}") from error
    drawn = Drawn(torch_module)
    named = {name: drawn.value(name, x) for name, x in bound.items()}
    return Calls(named, tuple(named)[: len(inputs)], of_torch, of_jax)


@dataclass
class Drawn:
    """Random inputs for described ones."""

    module: torch.nn.Module
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))

    def value(self, name: str, given: Any) -> Any:
        """The array of numpy that an input is or describes; any other value as it is."""
        if isinstance(given, jax.ShapeDtypeStruct):
            return self._array(name, given)
        return to_numpy(name, given) if isinstance(given, ARRAYS) else given

    def _array(self, name: str, described: jax.ShapeDtypeStruct) -> np.ndarray:
        dtype = np.dtype(described.dtype)
        if dtype.kind == "b":
            return self.rng.random(described.shape) < 0.5
        if np.issubdtype(dtype, np.integer):
            rows = [m.num_embeddings for m in self.module.modules() if isinstance(m, torch.nn.Embedding)]
            if not rows:
                raise InputError(
                    f"{name} must be given as an array, because no embedding of {type(self.module).__name__} says "
                    "which integers it takes"
                )
            return self.rng.integers(0, min(rows), described.shape).astype(dtype)
        return self.rng.standard_normal(described.shape).astype(ml_dtypes.bfloat16).astype(dtype)
