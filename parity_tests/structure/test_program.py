"""`program`: a call of a JAX model is traced once for all arrays of equal shapes, with the results of a plain call."""

import numpy as np
import torch
from flax import nnx

from parity_tests.helpers.program import program


def test_jax_model_is_traced_once_for_each_shape_and_gives_the_results_of_a_plain_call(rng):
    traced, model = [], nnx.Linear(2, 3, rngs=nnx.Rngs(0))

    def call(given, x):
        traced.append(x.shape)
        return given(x)

    run = program(model, call)
    for length in (4, 4, 5):
        x = rng.standard_normal((length, 2)).astype(np.float32)
        np.testing.assert_allclose(run(x), model(x), rtol=1e-6)
    assert traced == [(4, 2), (5, 2)]


def test_torch_model_is_called_as_it_is():
    model, x = torch.nn.Linear(2, 3), torch.ones(4, 2)
    assert torch.equal(program(model, lambda given, x: given(x))(x), model(x))
