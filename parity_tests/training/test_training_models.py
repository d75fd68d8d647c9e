"""Whole models learn alike: with the same weights, batches and AdamW, both mirrors have one loss curve."""

import dataclasses
from typing import Any

import pytest

from attention_bridge.training import apart
from parity_tests.helpers.lessons import BATCHES, SETTINGS, TASKS, curve, lesson_of, rounding_bound

STEPS = 120


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_both_mirrors_learn_along_the_same_curve(name: str, as_shipped: None) -> None:
    lesson = lesson_of(name, STEPS)
    reference, in_jax = (curve(framework, lesson, "float64") for framework in ("torch", "jax"))
    ours, theirs = (curve(framework, lesson, "float32") for framework in ("torch", "jax"))
    bound = rounding_bound(lesson)
    print(
        f"{name}: {apart(in_jax, reference):.1e} apart in float64, {apart(theirs, ours):.1e} in float32 "
        f"(from float64 {apart(ours, reference):.1e} and {apart(theirs, reference):.1e}, bound {bound:.1e}), "
        f"loss {reference[0]:.3f} to {reference[-1]:.3f}"
    )
    assert apart(in_jax, reference) <= 1e-9
    assert max(apart(ours, reference), apart(theirs, reference)) <= bound
    assert reference[-BATCHES:].mean() < 0.7 * reference[:BATCHES].mean()


OTHERS = (
    {"weight_decay": 0.04},
    {"eps": 1e-5},
    {"betas": (0.9, 0.99)},
    {"warmup": 8},
    {"final": 0.2},
    {"max_norm": 1.6},
)


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS, ids=lambda other: next(iter(other)))
def test_another_optimizer_gives_another_curve(other: dict[str, Any], as_shipped: None) -> None:
    """A negative control: the other framework has other settings."""
    lesson, told = lesson_of("Decoder", STEPS), dataclasses.replace(SETTINGS, **other)
    ours, theirs = (
        curve("torch", lesson, "float64"),
        curve("jax", lesson_of("Decoder", STEPS, told), "float64"),
    )
    print(f"{other}: {apart(theirs, ours):.1e} apart, bound {rounding_bound(lesson):.1e}")
    assert apart(theirs, ours) > 2 * rounding_bound(lesson)
