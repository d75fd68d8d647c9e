"""Shared helpers of the demonstrations: framework-independent random numbers and a printed table of weights."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jax_attention.outputs import AttentionOutput, CachedOutput

Module = TypeVar("Module", bound=nnx.Module)


def draw(*shape: int, seed: int = 0) -> Array:
    """Sample standard normal numbers, the same in both frameworks."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def fill(module: Module, seed: int = 0) -> Module:
    """Fill the parameters with random numbers, the same in both frameworks, and return the module in eval mode."""
    rng = np.random.default_rng(seed)
    parameters = nnx.to_flat_state(nnx.state(module, nnx.Param))
    for path, parameter in sorted(parameters, key=lambda item: _name_in_pytorch(item[0])):
        is_kernel = path[-1] == "kernel"  # (..., in, out), where PyTorch has (out, in, ...)
        shape = (*parameter.shape[:-3:-1], *parameter.shape[:-2]) if is_kernel else parameter.shape
        numbers = jnp.asarray((0.5 * rng.standard_normal(shape)).astype(np.float32))
        parameter[...] = jnp.moveaxis(numbers, (0, 1), (-1, -2)) if is_kernel else numbers
    module.eval()
    return module


def _name_in_pytorch(path: tuple[Any, ...]) -> str:
    *module, own = map(str, path)
    return ".".join([*module, "weight" if own in ("kernel", "scale", "embedding") else own])


def show(
    title: str, attention: AttentionOutput | CachedOutput, queries: Sequence[str], keys: Sequence[str]
) -> None:
    """Print the attention weights of the first batch element, as one labelled table per head."""
    output, weights = attention.output, attention.weights
    assert weights is not None
    print(f"\n{title}: output {tuple(output.shape)}, weights {tuple(weights.shape)}")
    heads = weights[0].reshape(-1, len(queries), len(keys))  # heads query key
    for number, head in enumerate(heads.tolist()):
        label = f"head {number}" if len(heads) > 1 else ""
        print(f"{label:>10}" + "".join(f"{key:>8}" for key in keys))
        for name, row in zip(queries, head, strict=True):
            print(f"{name:>10}" + "".join(f"{weight:8.3f}" for weight in row))
    print("first output:", " ".join(f"{number:.3f}" for number in output[0, 0].tolist()))
