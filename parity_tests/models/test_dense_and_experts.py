"""Dense network and experts side by side, as in Gemma 4: NumPy reference, gradients, refusals."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build
from attention_bridge.oracles.common import gelu_tanh, linear, rms_norm, scope, softmax
from attention_bridge.weights import transfer
from parity_tests.helpers.built import each_mirror

EMBED, DENSE, FFN, EXPERTS, CHOSEN, EPS = 6, 10, 7, 5, 2, 0.01
SIZES = {"embed_dim": EMBED, "dense_dim": DENSE, "ffn_dim": FFN, "num_experts": EXPERTS, "eps": EPS}
PART = Part("DenseAndExperts", {**SIZES, "num_chosen": CHOSEN})


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    made = build(PART, "torch_attention", {})
    return {name: torch.randn_like(x).numpy() for name, x in made.state_dict().items()}


def made_in(mirror, weights):
    return transfer(dict(weights), build(PART, mirror.package.__name__, {"rngs": nnx.Rngs(0)}))


def network(weights, name, x):
    each = scope(weights, name)
    return linear(each, "down_proj", gelu_tanh(linear(each, "gate_proj", x)) * linear(each, "up_proj", x))


def reference(weights, x):
    """The sum of both networks in float64, position by position, with the chosen experts alone."""
    p = {name: value.astype(np.float64) for name, value in weights.items()}
    dense = rms_norm(p, "dense_output_norm", network(p, "dense", rms_norm(p, "dense_norm", x, EPS)), EPS)
    mixed = np.zeros_like(x)
    for at in np.ndindex(x.shape[:2]):
        unit = x[at] / np.sqrt((x[at] ** 2).mean() + EPS) / EMBED**0.5
        logits = p["router.proj.weight"] @ (p["router.input_scale"] * unit)
        chosen = np.argsort(-logits)[:CHOSEN]
        normed = rms_norm(p, "experts_norm", x[at], EPS)
        for expert, share in zip(chosen, softmax(logits[chosen], np.ones(CHOSEN, bool)), strict=True):
            mixed[at] += share * p["router.expert_scale"][expert] * network(p, f"experts.{expert}", normed)
    return dense + rms_norm(p, "experts_output_norm", mixed, EPS)


def difference(one, other):
    return np.abs(numpy(one) - other).max() / np.abs(other).max()


@each_mirror
def test_output_equals_a_numpy_reference(mirror, weights, rng):
    x = rng.standard_normal((2, 4, EMBED)).astype(np.float32)
    found = made_in(mirror, weights)(mirror.array(x))
    assert difference(found, reference(weights, x.astype(np.float64))) < 2e-6


def test_output_in_float64_equals_the_reference(weights, rng):
    x = rng.standard_normal((2, 4, EMBED))
    made = transfer(
        {name: each.astype(np.float64) for name, each in weights.items()},
        build(PART, "torch_attention", {}).double(),
    )
    assert difference(made(torch.from_numpy(x)), reference(weights, x)) < 1e-12


@each_mirror
def test_gradient_equals_differences_of_the_reference(mirror, weights, rng):
    x, step = rng.standard_normal((1, 2, EMBED)), 1e-6
    slope = rng.standard_normal(x.shape)
    expected = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        both = []
        for side in (step, -step):
            moved = x.copy()
            moved[at] += side
            both.append((reference(weights, moved) * slope).sum())
        expected[at] = (both[0] - both[1]) / (2 * step)
    made, given = made_in(mirror, weights), x.astype(np.float32)
    if mirror.name == "torch":
        given = torch.from_numpy(given).requires_grad_()
        (made(given) * torch.from_numpy(slope.astype(np.float32))).sum().backward()
        found = given.grad
    else:
        found = jax.grad(lambda x: (made(x) * slope.astype(np.float32)).sum())(mirror.array(given))
    assert difference(found, expected) < 1e-5


@each_mirror
def test_more_chosen_experts_than_there_are_raise_an_error(mirror):
    part = Part(PART.name, {**PART.arguments, "num_chosen": EXPERTS + 1})
    with pytest.raises(ValueError, match=f"experts_in_chosen_groups must be at least {EXPERTS + 1}"):
        build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0)})
