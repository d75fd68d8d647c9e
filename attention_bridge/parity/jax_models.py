"""A JAX model of any library as its parameters and a function of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from flax import nnx

from attention_bridge.errors import InputError
from attention_bridge.weights.leaves import framework


class JaxModel(NamedTuple):
    """A model as a function of its parameters.

    Attributes:
        parameters: tree of the parameters that gradients are taken of.
        with_parameters: function from such a tree to a callable model.
        module: holder of the weights: a module, or a tree of arrays.
    """

    parameters: Any
    with_parameters: Callable[[Any], Callable[..., Any]]
    module: Any


def jax_model(model: Any) -> JaxModel:
    """Split a model into parameters and function.

    Args:
        model: NNX module, Equinox module, or a pair of a function of variables and inputs, such as `apply` of a Linen
            module, and the variables: a tree of parameters, or of collections with one called `params`.

    Raises:
        InputError: it is none of these.
    """
    equinox = framework("equinox")
    if isinstance(model, nnx.Module):
        graphdef, *states = nnx.split(model, nnx.Param, ...)
        parameters, rest = states
        return JaxModel(parameters, lambda given: nnx.merge(graphdef, given, rest), model)
    if equinox is not None and isinstance(model, equinox.Module):
        parameters, rest = equinox.partition(model, equinox.is_inexact_array)
        return JaxModel(parameters, lambda given: equinox.combine(given, rest), model)
    function, variables = _pair(model)
    if callable(function) and isinstance(variables, Mapping):
        if not isinstance(variables.get("params"), Mapping):
            return JaxModel(variables, lambda given: partial(function, given), variables)
        others = dict(variables)
        parameters = others.pop("params")
        return JaxModel(parameters, lambda given: partial(function, {**others, "params": given}), variables)
    raise InputError(
        "jax_module must be an NNX module, an Equinox module, or a pair (apply, variables) of a function and a tree of "
        f"parameters, got {type(model).__name__}"
    )


def _pair(model: Any) -> Any:
    """The two parts of a pair; None twice for anything else."""
    return model if isinstance(model, tuple) and len(model) == 2 else (None, None)
