"""Routing of experts against a float64 reference in NumPy, in both mirrors."""

from importlib import import_module

import numpy as np
import pytest
import torch

from parity_tests.helpers.built import each_mirror

EXPERTS, ROWS = 6, (3, 40)
BOUND = 8 * 2.0**-24 * EXPERTS


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def chosen(choice, k, groups, open_groups, best):
    """For each row, the indices of the chosen experts, by a loop."""
    for row in choice.reshape(-1, EXPERTS):
        parts = row.reshape(groups, -1)
        good = [np.sort(part)[-best:].sum() for part in parts]
        kept = np.argsort(good)[-open_groups:]
        left = [n for n in range(EXPERTS) if n // parts.shape[1] in kept]
        yield sorted(left, key=lambda n, row=row: -row[n])[:k]


def expected(scores, choice, given, best):
    k, groups, opened = (given.get(name, 1) for name in ("num_chosen", "num_groups", "num_chosen_groups"))
    result = np.zeros_like(scores).reshape(-1, EXPERTS)
    for row, score, picked in zip(
        result, scores.reshape(-1, EXPERTS), chosen(choice, k, groups, opened, best), strict=True
    ):
        row[picked] = score[picked]
        if given.get("normalised", True):
            row /= max(row.sum(), given.get("least_sum", 0.0))
    return result.reshape(scores.shape) * given.get("routed_scale", 1.0)


def sparse_mixer(logits, k, jitter):
    result = np.zeros_like(logits).reshape(-1, EXPERTS)
    for row, weights in zip(logits.reshape(-1, EXPERTS), result, strict=True):
        left = row.copy()
        for _ in range(k):
            top = left.max()
            near = [n for n in range(EXPERTS) if (top - row[n]) / max(abs(row[n]), top) <= 2 * jitter]
            near = [n for n in near if np.isfinite(left[n])]
            at = int(left.argmax())
            weights[at] = 1 / np.exp(left[near] - top).sum()
            left[at] = -np.inf
    return result.reshape(logits.shape)


def made(mirror, name, *given, **named):
    """A routing of a mirror."""
    routings = import_module(f"{mirror.package.__name__}.models.routing")
    return getattr(routings, name)(*given, **named)


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def found(mirror, routing, logits, bias=None):
    given = [mirror.array(x.astype(np.float32)) for x in (logits, *([] if bias is None else [bias]))]
    return numpy(routing.shares(*given)).astype(np.float64)


@pytest.fixture
def logits(rng):
    return rng.standard_normal((*ROWS, EXPERTS)).astype(np.float32).astype(np.float64)


@pytest.fixture
def bias(rng):
    return (0.3 * rng.standard_normal(EXPERTS)).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize(
    "given",
    [
        {"num_chosen": 2},
        {"num_chosen": 2, "normalised": False, "routed_scale": 2.5},
        {"num_chosen": 3, "num_groups": 3, "num_chosen_groups": 2, "normalised": False},
        {"num_chosen": 2, "biased": True, "least_sum": 0.6},
    ],
)
@each_mirror
def test_softmax_routing_equals_its_definition(mirror, given, logits, bias):
    routing = made(mirror, "SoftmaxRouting", **given)
    routing.check(EXPERTS)
    scores = softmax(logits)
    added = bias if given.get("biased") else None
    choice = scores if added is None else scores + added
    got = found(mirror, routing, logits, added)
    assert np.abs(got - expected(scores, choice, given, 1)).max() <= BOUND
    if added is not None:  # the bias and the least sum matter
        assert np.abs(got - expected(scores, scores, given, 1)).max() > 0.1
        assert np.abs(got - expected(scores, choice, {**given, "least_sum": 0.0}, 1)).max() > 0.01


@pytest.mark.parametrize(
    "given",
    [
        {"num_chosen": 2, "num_groups": 3, "num_chosen_groups": 2, "routed_scale": 2.5},
        {"num_chosen": 1, "biased": False, "normalised": False},
    ],
)
@each_mirror
def test_sigmoid_routing_equals_its_definition(mirror, given, logits, bias):
    routing = made(mirror, "SigmoidRouting", **given)
    routing.check(EXPERTS)
    scores = sigmoid(logits)
    added = bias if given.get("biased", True) else None
    choice = logits if added is None else scores + added
    got = found(mirror, routing, logits, added)
    assert np.abs(got - expected(scores, choice, given, 2)).max() <= 3 * BOUND


@each_mirror
def test_sigmoid_routing_without_a_bias_tells_large_logits_apart(mirror):
    logits = np.tile(np.array([40.0, 41.0, 50.0, 45.0, 0.0, -1.0]), (1, 1, 1))
    got = found(mirror, made(mirror, "SigmoidRouting", 1, biased=False, normalised=False), logits)
    assert got[0, 0].tolist() == [0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(("k", "jitter", "spread"), [(2, 0.01, 0.03), (3, 0.3, 1.0), (1, 0.1, 1.0)])
@each_mirror
def test_sparse_mixer_routing_equals_its_definition(mirror, k, jitter, spread, logits):
    logits = (0.5 + spread * logits).astype(np.float32).astype(np.float64)
    routing = made(mirror, "SparseMixerRouting", k, jitter)
    routing.check(EXPERTS)
    got, wanted = found(mirror, routing, logits), sparse_mixer(logits, k, jitter)
    assert ((got > 0).sum(-1) == k).all()
    assert np.abs(got - wanted).max() <= BOUND
    assert (wanted[wanted > 0] < 0.4).any() or k == 1  # many experts are near the best


@pytest.mark.parametrize("name", ["SigmoidRouting", "SoftmaxRouting"])
@each_mirror
def test_routing_with_too_few_experts_in_the_chosen_groups_raises(mirror, name):
    routing = made(mirror, name, 3, num_groups=3, num_chosen_groups=1)
    with pytest.raises(ValueError, match="experts_in_chosen_groups must be at least 3, got 2"):
        routing.check(EXPERTS)
