"""Padding behind a sequence: keys masked for every query change nothing, neither by value nor by number."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention_bridge.catalogue import CATALOGUE
from attention_bridge.parity.instances import jax_module, torch_module

# Their pattern depends on the length: the last block is global, or the number of landmarks is fixed.
BY_LENGTH = {"BigBirdAttention", "NystromAttention"}
PADDED = [
    each
    for each in CATALOGUE
    if each.inputs.keys() == {"x"} and "mask" in each.masks and each.name not in BY_LENGTH
]


def difference(module, array, mechanism, rng, *, masked):
    """The change of the outputs when two masked keys are appended to a sequence."""
    x = rng.standard_normal(mechanism.shape(mechanism.inputs["x"]))
    more = np.concatenate([x, np.full_like(x[:, :2], 3.7)], axis=1)
    mask = np.ones((len(x), 1, 1, more.shape[1]), bool)
    mask[..., x.shape[1] :] = not masked
    options = mechanism.options(False)
    alone = np.asarray(module(array(x), **options).output.tolist())
    found = np.asarray(module(array(more), array(mask), **options).output.tolist())[:, : alone.shape[1]]
    return np.abs(found - alone).max() / np.abs(alone).max()


def test_most_mechanisms_of_the_catalogue_take_padding():
    assert len(PADDED) >= 45


@pytest.mark.parametrize("mechanism", PADDED, ids=lambda each: each.name)
def test_padded_keys_change_nothing_in_torch(mechanism, rng):
    module = torch_module(mechanism, "float64")
    assert difference(module, torch.from_numpy, mechanism, rng, masked=True) < 1e-10
    if not mechanism.causal:
        assert difference(module, torch.from_numpy, mechanism, rng, masked=False) > 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", PADDED, ids=lambda each: each.name)
def test_padded_keys_change_nothing_in_jax(mechanism, rng):
    module = jax_module(mechanism, "float32")
    found = difference(
        module, lambda x: jnp.asarray(x, None if x.dtype == bool else "float32"), mechanism, rng, masked=True
    )
    assert found < 1e-5
