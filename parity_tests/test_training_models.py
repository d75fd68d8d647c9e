"""Whole models learn alike: the same weights, batches and AdamW in both mirrors, one curve of losses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import jax_attention
import jax_attention.models
import torch_attention
import torch_attention.models
from attention_bridge.optimizers import optimizer_like
from attention_bridge.running import on_platform
from attention_bridge.weights import transfer

STEPS, BATCHES, BATCH, LENGTH, TARGET = 120, 3, 4, 7, 5
VOCAB, CLASSES, EMBED, HEADS, LAYERS, FFN = 11, 6, 12, 3, 2, 13
# Some gradients are zero but for rounding, those of the keys' biases among them: Adam divides them by their own size
# unless eps is far above it, and makes steps of them that differ from one precision to the next.
SETTINGS = {"lr": 3e-3, "betas": (0.9, 0.98), "eps": 1e-5, "weight_decay": 0.05}
# 4 u sqrt(n) a step, n the sums on the way through the layers, and as much again for each step that came before.
SUMS = LAYERS * (3 * (4 * EMBED + EMBED // HEADS + LENGTH) + 2 * (EMBED + FFN)) + EMBED
BOUNDS = {"float64": 1e-9, "float32": STEPS * 4 * 2.0**-24 * float(np.sqrt(SUMS))}


class Lesson(NamedTuple):
    """What a model is to learn: to give a label to each place, from inputs drawn at random.

    Attributes:
        build: from the models of a mirror and how arrays are made to a model.
        logits: from a model and inputs to the scores of the labels.
        inputs: from a generator and a dtype to inputs.
        labels: the shape of the labels, and how many there are.
    """

    build: Callable[..., Any]
    logits: Callable[..., Any]
    inputs: Callable[[np.random.Generator, str], tuple[np.ndarray, ...]]
    labels: tuple[tuple[int, ...], int]


def texts(rng: np.random.Generator, *lengths: int) -> tuple[np.ndarray, ...]:
    return tuple(rng.integers(1, VOCAB, (BATCH, length)).astype(np.int32) for length in lengths)


def sentences(rng: np.random.Generator, dtype: str) -> tuple[np.ndarray, ...]:
    """Two languages, the first with padding."""
    mask = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (BATCH, 1))
    return *texts(rng, LENGTH, TARGET), mask[:, None, None]


def vision(m: Any, **f: Any) -> Any:
    config = m.VisionTransformerConfig((4, 6), (2, 3), 5, EMBED, HEADS, LAYERS, FFN, num_classes=CLASSES)
    return m.VisionTransformer(config, **f)


LESSONS = {
    "SimpleSeq2Seq": Lesson(
        lambda m, **f: m.SimpleSeq2Seq(VOCAB, CLASSES + 5, EMBED, HEADS, LAYERS, ffn_dim=FFN, max_len=8, **f),
        lambda model, source, target, mask: model(source, target, mask),
        sentences,
        ((BATCH, TARGET), CLASSES + 5),
    ),
    "VisionTransformer": Lesson(
        vision,
        lambda model, images: model(images).pooled,
        lambda rng, dtype: (rng.standard_normal((BATCH, 4, 6, 5)).astype(np.float32).astype(dtype),),
        ((BATCH,), CLASSES),
    ),
    "Decoder": Lesson(
        lambda m, **f: m.Decoder(m.DecoderConfig(VOCAB, EMBED, HEADS, LAYERS, FFN, 8), **f),
        lambda model, tokens: model(tokens).output,
        lambda rng, dtype: texts(rng, LENGTH),
        ((BATCH, LENGTH), VOCAB),
    ),
}


def batches(lesson: Lesson, dtype: str) -> list[tuple[tuple[np.ndarray, ...], np.ndarray]]:
    """Inputs and labels, a few batches that come round again."""
    rng, (shape, number) = np.random.default_rng(7), lesson.labels
    return [(lesson.inputs(rng, dtype), rng.integers(0, number, shape)) for _ in range(BATCHES)]


def beginning(lesson: Lesson, dtype: str) -> torch.nn.Module:
    """The model with weights that are the same in both precisions."""
    model, rng = lesson.build(torch_attention.models, dtype=getattr(torch, dtype)), np.random.default_rng(8)
    with torch.no_grad():
        for name, x in model.named_parameters():
            drawn = 0.3 * rng.standard_normal(tuple(x.shape)) + (1.0 if name.endswith("norm.weight") else 0.0)
            x.copy_(torch.from_numpy(drawn.astype(np.float32)))
    return model


def train_torch(
    lesson: Lesson, model: torch.nn.Module, optimizer: torch.optim.Optimizer, dtype: str
) -> np.ndarray:
    losses = []
    given = [
        ([torch.from_numpy(x) for x in inputs], torch.from_numpy(labels))
        for inputs, labels in batches(lesson, dtype)
    ]
    for step in range(STEPS):
        inputs, labels = given[step % BATCHES]
        logits = lesson.logits(model, *inputs)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def train_jax(
    lesson: Lesson, model: nnx.Module, rule: optax.GradientTransformation, dtype: str
) -> np.ndarray:
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params: Any, state: Any, inputs: Any, labels: jax.Array) -> Any:
        def loss_of(params: Any) -> jax.Array:
            logits = lesson.logits(nnx.merge(graphdef, params, rest), *inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = rule.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    given = [
        (tuple(map(jnp.asarray, inputs)), jnp.asarray(labels)) for inputs, labels in batches(lesson, dtype)
    ]
    state, losses = jax.jit(rule.init)(params), []
    for number in range(STEPS):
        params, state, loss = step(params, state, *given[number % BATCHES])
        losses.append(loss)
    return np.array([float(loss) for loss in losses])


def curves(lesson: Lesson, dtype: str, **other_settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """The losses of both mirrors from the same weights on; JAX may be told other settings than PyTorch."""
    ours = beginning(lesson, dtype)
    optimizer = torch.optim.AdamW(ours.parameters(), **SETTINGS)
    told = torch.optim.AdamW(ours.parameters(), **{**SETTINGS, **other_settings})
    with on_platform("cpu", float64=dtype == "float64"):
        theirs = transfer(ours, lesson.build(jax_attention.models, rngs=nnx.Rngs(0), param_dtype=dtype))
        in_jax = train_jax(lesson, theirs, optimizer_like(told, model=ours), dtype)
    return train_torch(lesson, ours, optimizer, dtype), in_jax


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """How far two curves are from each other, relative to the second."""
    return float(np.max(np.abs(one / other - 1.0)))


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_both_mirrors_learn_along_the_same_curve(name: str, as_shipped: None) -> None:
    reference, in_jax = curves(LESSONS[name], "float64")
    ours, theirs = curves(LESSONS[name], "float32")
    print(
        f"{name}: {apart(in_jax, reference):.1e} apart in float64, {apart(theirs, ours):.1e} in float32 "
        f"(from float64 {apart(ours, reference):.1e} and {apart(theirs, reference):.1e}), "
        f"loss {reference[0]:.3f} to {reference[-1]:.3f}"
    )
    assert apart(in_jax, reference) <= BOUNDS["float64"]
    assert max(apart(ours, reference), apart(theirs, reference)) <= BOUNDS["float32"]
    assert reference[-BATCHES:].mean() < 0.7 * reference[:BATCHES].mean()


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"weight_decay": 0.04}, {"eps": 1e-8}, {"betas": (0.9, 0.99)}])
def test_another_optimizer_parts_the_curves(other: dict[str, Any], as_shipped: None) -> None:
    """A control: settings that are not those of the other framework."""
    ours, theirs = curves(LESSONS["Decoder"], "float64", **other)
    assert apart(theirs, ours) > 2 * BOUNDS["float32"]
