"""Comparison of both mirrors with implementations of other libraries ("peers").

A peer is a function that builds the other library's module with random weights and runs it. It returns the mirrors'
module with the same weights, the inputs and the expected outputs:

    @peer("GroupedQueryAttention", "transformers LlamaAttention")
    def llama(rng): ...
        return Comparison(Part("GroupedQueryAttention", {...}), weights, inputs, expected)

`python -m parity_tests.peers` prints the table in `docs/peers.md`.
"""

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from attention_bridge.catalogue import Part
from attention_bridge.parity.comparison import error, pinned_precision, summed_terms, tolerances
from attention_bridge.parity.instances import build, jax_with
from attention_bridge.parity.run import Arrays, named_outputs, on_platform
from attention_bridge.weights import transfer
from attention_bridge.weights.leaves import to_numpy


class Comparison(NamedTuple):
    """The mirrors' module, weights and inputs that correspond to a run of a peer, and the peer's outputs.

    Attributes:
        module: module to build in both mirrors.
        weights: weights of the peer by the names of the torch mirror; the comparison runs in their dtype.
        inputs: arguments of the call by name: NumPy arrays, and other values that are passed unchanged.
        expected: outputs of the peer, by the names of the mirrors' outputs.
    """

    module: Part
    weights: Mapping[str, np.ndarray]
    inputs: Mapping[str, Any]
    expected: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Peer:
    """Another library's implementation of a mechanism.

    Attributes:
        mechanism: name of the mechanism in the catalogue.
        name: package and class or function.
        compare: function that runs the implementation on random numbers from a generator.
    """

    mechanism: str
    name: str
    compare: Callable[[np.random.Generator], Comparison]


class Measured(NamedTuple):
    """The largest difference of each mirror from a peer over all outputs, relative to the largest expected value."""

    peer: Peer
    dtype: str
    torch_err: float
    jax_err: float
    tolerance: float


_found: list[Peer] = []


def peer(
    mechanism: str, name: str
) -> Callable[[Callable[[np.random.Generator], Comparison]], Callable[[np.random.Generator], Comparison]]:
    """Decorator that registers a function as a peer of a mechanism."""

    def enter(compare: Callable[[np.random.Generator], Comparison]) -> Any:
        _found.append(Peer(mechanism, name, compare))
        return compare

    return enter


def peers() -> list[Peer]:
    """All peers in all files of this folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the libraries' imports
        for module in pkgutil.iter_modules(__path__):
            if module.name != "__main__":
                importlib.import_module(f"{__name__}.{module.name}")
    return list(_found)


def numpy(tensor: Any) -> np.ndarray:
    """Convert an array of any framework to NumPy."""
    return tensor.detach().cpu().numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)


@torch.no_grad()
def randomise(module: torch.nn.Module, rng: np.random.Generator) -> None:
    """Fill every parameter of a torch module with random numbers, including biases and norms."""
    for parameter in module.parameters():
        parameter.copy_(torch.from_numpy(0.5 * rng.standard_normal(parameter.shape)))


def weights_of(module: torch.nn.Module, **names: str) -> Arrays:
    """The parameters of a torch module, renamed by prefix: with `q_proj="query"`, `query.weight` is `q_proj.weight`."""
    state = {name: numpy(x) for name, x in module.state_dict().items()}
    return {
        ours + name.removeprefix(prefix): x
        for ours, prefix in names.items()
        for name, x in state.items()
        if name == prefix or name.startswith(f"{prefix}.")
    }


def _each_array(inputs: Mapping[str, Any], convert: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    return {name: convert(x) if isinstance(x, np.ndarray) else x for name, x in inputs.items()}


def _compiled(module: nnx.Module, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The outputs of a JAX module, compiled as a whole, which is faster than op by op."""
    graphdef, state = nnx.split(module)
    arrays = {n: x for n, x in inputs.items() if any(isinstance(y, jax.Array) for y in jax.tree.leaves(x))}
    fixed = {name: x for name, x in inputs.items() if name not in arrays}

    @jax.jit
    def run(state: nnx.State, arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
        return named_outputs(nnx.merge(graphdef, state)(**arrays, **fixed))

    return run(state, arrays)


def measure(one: Peer) -> Measured:
    """Run both mirrors with the peer's weights and inputs, and compare the outputs."""
    module, weights, inputs, expected = one.compare(np.random.default_rng(20261123))
    arrays = [x for x in (*weights.values(), *inputs.values()) if isinstance(x, np.ndarray)]
    dtype = str(next(x.dtype for x in arrays if x.dtype.kind == "f"))
    with pinned_precision(), on_platform("cpu", float64=dtype == "float64"):
        ours = build(module, "torch_attention", {"dtype": getattr(torch, dtype)}).eval()
        theirs = jax_with(module, dict(weights), {"param_dtype": dtype})
        transfer(dict(weights), ours)
        by_torch = named_outputs(ours(**_each_array(inputs, lambda x: torch.from_numpy(x.copy()))))
        by_jax = _compiled(theirs, _each_array(inputs, jnp.asarray))
        errors = [
            (
                error(to_numpy(name, by_torch[name]), numpy(right)),
                error(np.asarray(by_jax[name]), numpy(right)),
            )
            for name, right in expected.items()
        ]
    # The peer rounds too: two implementations may differ by twice the tolerance of one.
    bound = 2 * tolerances(dtype, summed_terms(weights, inputs))["output"]
    return Measured(one, dtype, max(e for e, _ in errors), max(e for _, e in errors), bound)
