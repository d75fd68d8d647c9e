"""Linformer and Nystrom attention: special cases that equal dense attention, and bad input."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_attention.low_rank.nystrom
import torch_attention.low_rank.nystrom
from attention_bridge.catalogue import Part
from attention_bridge.parity.comparison import error
from attention_bridge.parity.instances import build, jax_with
from attention_bridge.parity.run import on_platform, run_jax, run_torch
from attention_bridge.weights import transfer
from parity_tests.helpers.built import collected
from parity_tests.helpers.refusals import Case, assert_impossible, assert_refused
from parity_tests.peers.low_rank import nystrom_package

CLOSE = 1e-12  # of float64
HEADS = {"embed_dim": 12, "num_heads": 3}


def weights_for(rng, part):
    """Random weights for a module, by their PyTorch names."""
    shapes = build(part, "torch_attention", {"device": "meta"}).state_dict()
    return {name: 0.5 * rng.standard_normal(x.shape) for name, x in shapes.items()}


@collected
def runs(part, weights, **inputs):
    """Float64 runs of both mirrors, forward and backward."""
    ours = transfer(dict(weights), build(part, "torch_attention", {"dtype": torch.float64}).eval())
    yield run_torch(ours, inputs)
    with on_platform("cpu", float64=True):
        yield run_jax(jax_with(part, dict(weights), {"param_dtype": "float64"}), inputs)


@pytest.mark.parametrize("length", [7, 5])
def test_identity_mixtures_are_dense_attention(length, rng):
    dense = Part("MultiHeadSelfAttention", HEADS)
    sparse = Part("LinformerAttention", {**HEADS, "length": 7, "projected_length": 7})
    weights, x = weights_for(rng, dense), rng.standard_normal((2, length, 12))
    identities = {"key_mixtures": np.eye(7), "value_mixtures": np.eye(7)}
    for found, expected in zip(
        runs(sparse, {**weights, **identities}, x=x), runs(dense, weights, x=x), strict=True
    ):
        if length == 7:
            assert error(found.outputs["weights"], expected.outputs["weights"]) < CLOSE
            assert error(found.outputs["output"], expected.outputs["output"]) < CLOSE
        else:  # a mixture of positions beyond the end is a zero key, which receives weight
            assert found.outputs["weights"].shape == (2, 3, 5, 7)
            assert error(found.outputs["output"], expected.outputs["output"]) > 0.01


def test_masked_position_is_in_no_mixture(rng):
    part = Part("LinformerAttention", {**HEADS, "length": 7, "projected_length": 4})
    weights, x = weights_for(rng, part), rng.standard_normal((2, 7, 12))
    mask = (np.arange(7) < 5)[None, None, None].repeat(2, axis=0)
    for hidden, short in zip(
        runs(part, weights, x=x, mask=mask), runs(part, weights, x=x[:, :5].copy()), strict=True
    ):
        assert error(hidden.outputs["output"][:, :5], short.outputs["output"]) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("num_iterations", [6, 20])
def test_landmark_at_every_position_is_dense_attention_up_to_the_inverse(num_iterations, rng):
    dense = Part("MultiHeadSelfAttention", HEADS)
    sparse = Part("NystromAttention", {**HEADS, "num_landmarks": 5, "num_iterations": num_iterations})
    weights, x = weights_for(rng, dense), rng.standard_normal((2, 5, 12))
    for found, expected in zip(runs(sparse, weights, x=x), runs(dense, weights, x=x), strict=True):
        far = error(found.outputs["weights"], expected.outputs["weights"])
        assert far < 1e-8 if num_iterations == 20 else 1e-8 < far < 0.2


@pytest.mark.parametrize("mirror", ["torch", "jax"])
class TestPseudoInverse:
    def invert(self, mirror, matrix, num_iterations):
        if mirror == "torch":
            inverse = torch_attention.low_rank.nystrom.iterative_pseudo_inverse
            return inverse(torch.from_numpy(matrix), num_iterations).numpy()
        with on_platform("cpu", float64=True):
            inverse = jax_attention.low_rank.nystrom.iterative_pseudo_inverse
            return np.asarray(inverse(jnp.asarray(matrix), num_iterations))

    def test_inverse_is_the_moore_penrose_inverse(self, mirror, rng):
        left, _, right = np.linalg.svd(rng.standard_normal((2, 3, 6, 6)))
        matrix = left[..., :4] @ (np.linspace(1.0, 2.0, 4)[:, None] * right[..., :4, :])  # of rank 4
        assert error(self.invert(mirror, matrix, 8), np.linalg.pinv(matrix)) < 1e-10

    @pytest.mark.slow
    def test_inverse_of_zeros_is_zero_and_matrices_are_independent(self, mirror, rng):
        matrix = np.concatenate([np.zeros((1, 5, 5)), rng.random((1, 5, 5)), 100 * rng.random((1, 5, 5))])
        together = self.invert(mirror, matrix, 6)
        assert not together[0].any()
        for i in (1, 2):
            assert error(together[i], self.invert(mirror, matrix[i : i + 1], 6)[0]) < CLOSE


@pytest.mark.slow
def test_padding_equals_the_package_at_real_positions(rng):
    """A segment of padding only differs: the package lets it attend to all landmarks equally."""
    shown = np.arange(9)[None] < 7
    module, weights, inputs, expected = nystrom_package(rng, shown)
    for found in runs(module, weights, **inputs):
        for name, x in expected.items():
            rows = found.outputs[name][..., :7, :]
            assert error(rows, x[..., :7, :]) < CLOSE, name


@pytest.mark.slow
def test_padding_of_whole_segments_changes_nothing(rng):
    short = Part("NystromAttention", {**HEADS, "num_landmarks": 3, "kernel_size": 3})
    long = Part("NystromAttention", {**HEADS, "num_landmarks": 5, "kernel_size": 3})
    weights, x = weights_for(rng, short), rng.standard_normal((2, 10, 12))
    mask = (np.arange(10) < 6)[None, None, None].repeat(2, axis=0)
    for padded, alone in zip(
        runs(long, weights, x=x, mask=mask), runs(short, weights, x=x[:, :6].copy()), strict=True
    ):
        assert error(padded.outputs["output"][:, :6], alone.outputs["output"]) < CLOSE


def call(m, module, shape=(2, 12, 12), **options):
    """A call of a module with one sequence."""
    return partial(module, m.nan(*shape), **options)


FINE_MASK = (
    "mask must have shape (batch, 1, 1, key) = (2, 1, 1, 12) here, "
    "as padding_mask(tokens, pad_id) gives it, got (12, 12)"
)
REFUSED = [
    Case(
        "a sequence that is too long",
        lambda m: call(m, m.LinformerAttention(12, 3, 10, 4)),
        ValueError,
        "x must be at most length=10 long, got 12",
    ),
    Case(
        "a mask finer than mixtures can be",
        lambda m: call(m, m.LinformerAttention(12, 3, 12, 4), mask=m.ones(12, 12)),
        ValueError,
        FINE_MASK,
    ),
    Case(
        "a dropout mask over positions",
        lambda m: call(m, m.LinformerAttention(12, 3, 12, 4), dropout_keep=m.ones(2, 3, 12, 12)),
        ValueError,
        "dropout_keep must have shape (2, 3, 12, 4), got (2, 3, 12, 12)",
    ),
    Case(
        "a mask finer than landmarks can be",
        lambda m: call(m, m.NystromAttention(12, 3, 4), mask=m.ones(12, 12)),
        ValueError,
        FINE_MASK,
    ),
    Case(
        "a length that the landmarks do not divide",
        lambda m: call(m, m.NystromAttention(12, 3, 5)),
        ValueError,
        "length must be divisible by num_landmarks, got length=12 and num_landmarks=5",
    ),
]
IMPOSSIBLE = [
    Case(
        "more mixtures than positions",
        lambda m: partial(m.LinformerAttention, 12, 3, 7, 8),
        ValueError,
        "projected_length must be at most length=7, got 8",
    ),
    Case(
        "no mixtures",
        lambda m: partial(m.LinformerAttention, 12, 3, 7, 0),
        ValueError,
        "projected_length must be at least 1, got 0",
    ),
    Case(
        "no landmarks",
        lambda m: partial(m.NystromAttention, 12, 3, 0),
        ValueError,
        "num_landmarks must be at least 1, got 0",
    ),
    Case(
        "an even kernel",
        lambda m: partial(m.NystromAttention, 12, 3, 4, kernel_size=4),
        ValueError,
        "kernel_size must be odd, or None, got 4",
    ),
]


@pytest.mark.usefixtures("as_shipped")
class TestRefusals:
    @pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
    def test_bad_call_raises_the_same_error(self, case):
        assert_refused(case)

    @pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.name)
    def test_bad_arguments_raise_the_same_error(self, case):
        assert_impossible(case)
