"""Modules of both mirrors: built, filled with weights and run in the same way. Shared by the tests of families."""

from functools import wraps
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge.catalogue import Part
from attention_bridge.parity.comparison import error
from attention_bridge.parity.instances import build, jax_with
from attention_bridge.weights import transfer

MIRRORS = {
    "torch": SimpleNamespace(name="torch", package=torch_attention, array=torch.from_numpy),
    "jax": SimpleNamespace(name="jax", package=jax_attention, array=jnp.asarray),
}
each_mirror = pytest.mark.parametrize("mirror", MIRRORS.values(), ids=MIRRORS)
# The same, but the JAX half, which compiles much, runs among the slow tests.
each_mirror_slow_in_jax = pytest.mark.parametrize(
    "mirror",
    [pytest.param(x, marks=pytest.mark.slow if name == "jax" else ()) for name, x in MIRRORS.items()],
    ids=MIRRORS,
)


def collected(generator):
    """A function that returns a generator's items as a list, so that its context managers exit at once.

    Two interleaved generators that switch JAX to float64 would each restore the other's setting.
    """

    @wraps(generator)
    def collect(*args, **kwargs):
        return list(generator(*args, **kwargs))

    return collect


def module(mirror, name, weights=None, **arguments):
    """A module of a mirror in evaluation mode, with its own or with given weights."""
    part = Part(name, arguments)
    if weights is not None and mirror.name == "jax":
        return jax_with(part, dict(weights), {})
    made = build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0)})
    made.eval()
    return made if weights is None else transfer(dict(weights), made)


def weights_for(rng, name, **arguments):
    """Random float32 weights for a class."""
    state = build(Part(name, arguments), "torch_attention", {}).state_dict()
    return {key: (0.4 * rng.standard_normal(x.shape)).astype(np.float32) for key, x in state.items()}


def run(mirror, made, x, **options):
    """Output and weights, as numpy arrays."""
    arrays = {key: mirror.array(y) if isinstance(y, np.ndarray) else y for key, y in options.items()}
    return [np.asarray(y.tolist()) for y in made(mirror.array(x), **arrays)]


def numbers(rng, *shape):
    """Standard normal float32 values."""
    return rng.standard_normal(shape).astype(np.float32)


def assert_alike(ours, theirs, bound=2e-6):
    """Assert that all outputs are equal, up to a bound on the relative error."""
    for one, other in zip(ours, theirs, strict=True):
        assert error(one, other) <= bound
