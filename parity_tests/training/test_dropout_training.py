"""Training with dropout: one seed gives the same dropout masks and the same loss curve in both mirrors."""

import sys
from functools import cache
from typing import Any

import numpy as np
import pytest

from attention_bridge.errors import InputError
from attention_bridge.training import Batch, Lesson, apart, keep_masks
from parity_tests.helpers.lessons import (
    BATCH,
    BATCHES,
    EMBED,
    FFN,
    HEADS,
    LAYERS,
    LENGTH,
    SETTINGS,
    VOCAB,
    curve,
    drawn,
    rounding_bound,
    texts,
)

STEPS, RATE, SEED = 120, 0.2, 3
# The dropout positions of a Decoder, in the order of `ModelKeep`.
PLACES = {
    "embeddings": (BATCH, LENGTH, EMBED),
    **{
        f"{layer}.{place}": shape
        for layer in range(LAYERS)
        for place, shape in {
            "weights": (BATCH, HEADS, LENGTH, LENGTH),
            "attention_output": (BATCH, LENGTH, EMBED),
            "ffn_output": (BATCH, LENGTH, EMBED),
        }.items()
    },
}


def scores(model: Any, tokens: Any, embeddings: Any, *of_layers: Any) -> Any:
    """The logits of a Decoder of either mirror under these dropout masks."""
    mirror = sys.modules[type(model).__module__.partition(".")[0]]
    layers = tuple(mirror.LayerKeep(*of_layers[3 * i : 3 * i + 3]) for i in range(LAYERS))
    return model(tokens, dropout_keep=mirror.ModelKeep(embeddings, layers)).output


@cache
def lesson_of(rate: float = RATE, seed: int = SEED) -> Lesson:
    rng = np.random.default_rng(7)
    given = [(*texts(rng, LENGTH), rng.integers(0, VOCAB, (BATCH, LENGTH))) for _ in range(BATCHES)]

    def batch(step: int) -> Batch:
        tokens, labels = given[step % BATCHES]
        return Batch((tokens, *keep_masks(PLACES, rate, seed=seed, step=step).values()), labels)

    def build(m: Any, **factory: Any) -> Any:
        return drawn(m.Decoder(m.DecoderConfig(VOCAB, EMBED, HEADS, LAYERS, FFN, 8, dropout=rate), **factory))

    return Lesson("dropout", build, scores, batch, STEPS, SETTINGS)


@pytest.mark.slow
def test_both_mirrors_drop_and_learn_alike(as_shipped: None) -> None:
    lesson = lesson_of()
    reference, in_jax = (curve(framework, lesson, "float64") for framework in ("torch", "jax"))
    ours, theirs = (curve(framework, lesson, "float32") for framework in ("torch", "jax"))
    bound = rounding_bound(lesson)
    print(
        f"{apart(in_jax, reference):.1e} in float64, {apart(theirs, ours):.1e} in float32, bound {bound:.1e}"
    )
    assert apart(in_jax, reference) <= 1e-9
    assert max(apart(ours, reference), apart(theirs, reference)) <= bound
    assert reference[-BATCHES:].mean() < 0.85 * reference[:BATCHES].mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    "other", [{"seed": SEED + 1}, {"rate": 0.0}], ids=["another seed", "nothing dropped"]
)
def test_other_masks_give_another_curve(other: dict[str, Any], as_shipped: None) -> None:
    """A negative control."""
    ours, theirs = curve("torch", lesson_of(), "float64"), curve("jax", lesson_of(**other), "float64")
    assert apart(theirs, ours) > 100 * rounding_bound(lesson_of())


def test_masks_depend_only_on_seed_step_and_position() -> None:
    first = keep_masks(PLACES, RATE, seed=SEED, step=5)
    again = keep_masks(PLACES, RATE, seed=SEED, step=5)
    for name, mask in first.items():
        np.testing.assert_array_equal(mask, again[name])
        assert mask.dtype == bool
        assert mask.shape == PLACES[name]
        for seed, step in ((SEED + 1, 5), (SEED, 6)):
            assert (mask != keep_masks(PLACES, RATE, seed=seed, step=step)[name]).any()
    assert (first["0.attention_output"] != first["0.ffn_output"]).any()


def test_masks_keep_the_expected_fraction() -> None:
    """Within six standard deviations."""
    size, rate = 40_000, 0.3
    kept = keep_masks({"x": (size,)}, rate, seed=1, step=0)["x"].mean()
    assert abs(kept - (1 - rate)) < 6 * (rate * (1 - rate) / size) ** 0.5
    assert keep_masks({"x": (size,)}, 0.0, seed=1, step=0)["x"].all()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"rate": 1.0, "seed": 0, "step": 0}, "rate must be in [0, 1), got 1.0"),
        ({"rate": 0.5, "seed": -1, "step": 0}, "seed and step must be at least 0, got -1 and 0"),
        ({"rate": 0.5, "seed": 0, "step": -2}, "seed and step must be at least 0, got 0 and -2"),
    ],
)
def test_bad_arguments_raise_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        keep_masks({"x": (2,)}, **given)
    assert str(refusal.value) == sentence
