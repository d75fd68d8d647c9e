"""Calls of a JAX model with NumPy arrays; `in_torch` does the same in PyTorch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attention.models import generate as generate


def arrays(model: Any, *given: np.ndarray | None) -> tuple[Any, ...]:
    """Convert NumPy arrays to JAX arrays; None stays None."""
    return tuple([None if each is None else jnp.asarray(each) for each in given])


def run(function: Callable[..., Any], model: Any, *given: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Call `function(model, *arrays)`, compiled, and convert its results to float32."""
    with jax.default_matmul_precision("highest"):
        found: Any = _run(function, model, arrays(model, *given))  # type: ignore[call-arg]
    return tuple([np.asarray(each, np.float32) for each in found])


@partial(nnx.jit, static_argnums=0)
def _run(function: Callable[..., Any], model: Any, given: tuple[Any, ...]) -> Any:
    return function(model, *given)
