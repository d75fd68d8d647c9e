"""Embeddings of sequences with mask tokens, in both mirrors, against float64 NumPy."""

import numpy as np
import pytest

import jax_attention.models.mask_tokens
import torch_attention.models.mask_tokens
from parity_tests.helpers.built import each_mirror

FUNCTIONS = {
    "torch": torch_attention.models.mask_tokens.without_mask_tokens,
    "jax": jax_attention.models.mask_tokens.without_mask_tokens,
}


@pytest.mark.parametrize("padded", [False, True])
@each_mirror
def test_mask_tokens_are_zero_and_the_others_are_scaled(mirror, padded, rng):
    x = rng.standard_normal((3, 5, 4)).astype(np.float32)
    tokens = np.array([[7, 3, 3, 1, 2], [3, 3, 3, 3, 3], [1, 2, 4, 5, 6]], np.int32)
    real = np.arange(5) < np.array([[4], [5], [3]]) if padded else np.ones((3, 5), bool)
    given = mirror.array(real) if padded else None
    found = np.asarray(FUNCTIONS[mirror.name](mirror.array(x), mirror.array(tokens), given, 3))
    expected = x.astype(np.float64)
    for row, (each, there) in enumerate(zip(tokens, real, strict=True)):
        masked = (each == 3) & there
        expected[row] *= 0.88 * there.sum() / max(there.sum() - masked.sum(), 1)
        expected[row][each == 3] = 0
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
