"""Small training lessons for both mirrors, and a bound on the effect of rounding on their loss curves."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from attention_bridge.parity.measure import CONSTANT, UNIT_ROUNDOFF
from attention_bridge.parity.run import on_platform
from attention_bridge.training import AdamW, Batch, Lesson, apart, learner_of, train

BATCHES, BATCH, LENGTH, TARGET = 3, 4, 7, 5
VOCAB, CLASSES, EMBED, HEADS, LAYERS, FFN = 11, 6, 12, 3, 2, 13
SETTINGS = AdamW(lr=3e-3, betas=(0.9, 0.98), weight_decay=0.05, warmup=7, final=0.3, max_norm=1.5)
DRAWS = 3


class Task(NamedTuple):
    """A training task: predict random labels from random inputs.

    Attributes:
        build: as in `Lesson`.
        logits: as in `Lesson`.
        inputs: makes inputs from a generator.
        labels: shape of the labels, and number of classes.
    """

    build: Callable[..., Any]
    logits: Callable[..., Any]
    inputs: Callable[[np.random.Generator], tuple[np.ndarray, ...]]
    labels: tuple[tuple[int, ...], int]


def texts(rng: np.random.Generator, *lengths: int) -> tuple[np.ndarray, ...]:
    return tuple(rng.integers(1, VOCAB, (BATCH, length)).astype(np.int32) for length in lengths)


def sentences(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Source and target texts, and a padding mask of the source."""
    mask = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (BATCH, 1))
    return *texts(rng, LENGTH, TARGET), mask[:, None, None]


def vision(m: Any, **f: Any) -> Any:
    config = m.VisionTransformerConfig((4, 6), (2, 3), 5, EMBED, HEADS, LAYERS, FFN, num_classes=CLASSES)
    return m.VisionTransformer(config, **f)


TASKS = {
    "SimpleSeq2Seq": Task(
        lambda m, **f: m.SimpleSeq2Seq(VOCAB, CLASSES + 5, EMBED, HEADS, LAYERS, ffn_dim=FFN, max_len=8, **f),
        lambda model, source, target, mask: model(source, target, mask),
        sentences,
        ((BATCH, TARGET), CLASSES + 5),
    ),
    "VisionTransformer": Task(
        vision,
        lambda model, images: model(images).pooled,
        lambda rng: (rng.standard_normal((BATCH, 4, 6, 5)).astype(np.float32),),
        ((BATCH,), CLASSES),
    ),
    "Decoder": Task(
        lambda m, **f: m.Decoder(m.DecoderConfig(VOCAB, EMBED, HEADS, LAYERS, FFN, 8), **f),
        lambda model, tokens: model(tokens).output,
        lambda rng: texts(rng, LENGTH),
        ((BATCH, LENGTH), VOCAB),
    ),
}


@cache
def lesson_of(name: str, steps: int, optimizer: AdamW = SETTINGS) -> Lesson:
    """A lesson that cycles through a few batches."""
    rng, task = np.random.default_rng(7), TASKS[name]
    shape, number = task.labels
    given = [Batch(task.inputs(rng), rng.integers(0, number, shape)) for _ in range(BATCHES)]
    return Lesson(
        name,
        lambda models, **factory: drawn(task.build(models, **factory)),
        task.logits,
        lambda step: given[step % BATCHES],
        steps,
        optimizer,
        configuration={"embed_dim": EMBED, "num_heads": HEADS},
    )


def drawn(model: Any) -> Any:
    """The model with random weights, biases included; only the PyTorch model is filled, as every run starts from it."""
    rng = np.random.default_rng(8)
    for name, x in model.named_parameters() if isinstance(model, torch.nn.Module) else ():
        x.data = torch.from_numpy(
            (0.3 * rng.standard_normal(tuple(x.shape)) + name.endswith("norm.weight")).astype(np.float32)
        )
    return model


@cache
def curve(framework: str, lesson: Lesson, dtype: str) -> np.ndarray:
    """The losses of a mirror."""
    with on_platform("cpu", float64=dtype == "float64"):
        return np.array([*train(learner_of(framework, lesson, dtype))])


@cache
def rounding_bound(lesson: Lesson) -> float:
    """Bound on the difference between a float32 curve and the float64 curve, estimated from simulated rounding.

    Rounding changes layer outputs, and weights after each step, by a relative error of up to one unit roundoff. The
    float64 run is repeated with random relative errors of that size, which accumulate in the weights. So no part of the
    bound is tuned: training amplifies simulated and real rounding alike. The factor is the one of the whole suite,
    because a layer rounds several times before its output, and its gradients round too.
    """
    reference, found = curve("torch", lesson, "float64"), []
    for draw in range(DRAWS):
        learner, generator = learner_of("torch", lesson, "float64"), torch.Generator().manual_seed(draw)

        def rounded(x: torch.Tensor, generator: torch.Generator = generator) -> torch.Tensor:
            noise = 2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1
            return x * (1 + UNIT_ROUNDOFF["float32"] * noise)

        for module in learner.model.modules():
            module.register_forward_hook(
                lambda _, given, made, rounded=rounded: (
                    rounded(made) if isinstance(made, torch.Tensor) else made
                )
            )
        losses = []
        for step in range(lesson.steps):
            for x in learner.model.parameters():
                x.data = rounded(x.data)
            losses.append(learner.step(lesson.batch(step)))
        found.append(apart(np.array(losses), reference))
    return CONSTANT * max(found)
