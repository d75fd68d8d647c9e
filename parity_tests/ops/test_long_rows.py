"""Compiled and eager JAX agree beyond 32,768 rows, where XLA's CPU compiler may treat the last row differently."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
from jax import Array

from jax_attention.linear.delta import unit_length
from jax_attention.ops import dot_product_attention_weights
from jax_attention.ops.definition import weighted_values
from jax_attention.ops.softmax import masked_softmax

ROWS = 32_769


def project_and_normalise(x: Array) -> Array:
    """The keys of DeltaNet: their norm sums over a projection, as in the canaries."""
    return unit_length(x @ x[:3])


def attend(x: Array) -> Array:
    """Attention of every row to three keys."""
    x = x[None]  # heads rows head_dim
    keys = x[:, :3]
    return weighted_values(dot_product_attention_weights(x, keys), keys)


@pytest.mark.parametrize(
    "function",
    [project_and_normalise, lambda x: masked_softmax(x, x > -1), attend],
    ids=["project_and_normalise", "masked_softmax", "attend"],
)
def test_compiled_function_equals_eager_in_every_row(function: Callable[[Array], Array]) -> None:
    x = jax.numpy.asarray(np.random.default_rng(0).standard_normal((ROWS, 3)), "float32")
    compiled, eager = np.asarray(jax.jit(function)(x)), np.asarray(function(x))
    np.testing.assert_allclose(compiled, eager, rtol=1e-5, atol=1e-6)
