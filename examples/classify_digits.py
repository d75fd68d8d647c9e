"""A Vision Transformer learns to classify handwritten digits, with the same code in PyTorch and in JAX.

python examples/classify_digits.py --framework both

The data are scikit-learn's 1797 handwritten digits of 8 x 8 pixels; a fifth of them is the test set. At the end the
script draws the losses (`curves.png`), and the attention rollout on test digits (`rollout.png`).
"""

from typing import Any

import numpy as np
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from attention_bridge import plots
from attention_bridge.training import NAMES, AdamW, Batch, Lesson, Options, example

BAR = 0.97
BATCH = 128
SIZES = {
    "image_size": (8, 8),
    "patch_size": (2, 2),
    "in_channels": 1,
    "embed_dim": 64,
    "num_heads": 4,
    "num_layers": 2,
    "ffn_dim": 128,
    "num_classes": 10,
}


# ---- The data -----------------------------------------------------------------------------------------------


def digits(seed: int) -> list[np.ndarray]:
    """Training images, test images, both `(images, 8, 8, 1)` from 0 to 1, training labels and test labels."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    return train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=seed)


def moved(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Data augmentation: rotates, stretches and shifts each image a little."""
    turns = np.deg2rad(rng.uniform(-8, 8, len(images)))
    stretches, shifts = (
        np.exp(rng.uniform(-0.05, 0.05, (len(images), 2))),
        rng.uniform(-0.7, 0.7, (len(images), 2)),
    )
    found = []
    for image, turn, stretch, shift in zip(images[..., 0], turns, stretches, shifts, strict=True):
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * stretch
        middle = np.array([3.5, 3.5])
        found.append(affine_transform(image, matrix, middle - matrix @ middle + shift, order=1))
    return np.stack(found)[..., None]


# ---- The model: the same lines for both frameworks ----------------------------------------------------------


def build(models: Any, **factory: Any) -> Any:
    """The Vision Transformer of `torch_attention.models` or of `jax_attention.models`."""
    return models.VisionTransformer(models.VisionTransformerConfig(**SIZES), **factory)


def scores(model: Any, images: Any) -> Any:
    """The logits of the ten digits, from the class token."""
    return model(scaled(images)).pooled


def scaled(images: Any) -> Any:
    """Scale pixels to a mean of about 0 and a standard deviation of about 1, as the initialisation expects."""
    return (images - 0.3) / 0.4


def looks(model: Any, images: Any) -> Any:
    """The attention weights of every layer, `(images, heads, tokens, tokens)`."""
    return model(scaled(images), need_weights=True).weights


# ---- The training -------------------------------------------------------------------------------------------


@example(steps=2000)
def main(options: Options) -> None:
    """Learn to classify handwritten digits with a Vision Transformer."""
    images, test_images, labels, test_labels = digits(options.seed)

    def batch(step: int) -> Batch:
        rng = np.random.default_rng([options.seed, step])
        drawn = rng.integers(0, len(images), BATCH)
        return Batch((moved(images[drawn], rng),), labels[drawn])

    lesson = Lesson(
        "Handwritten digits",
        build,
        scores,
        batch,
        options.steps,
        AdamW(lr=1.5e-3, weight_decay=0.05, warmup=50),
        options.seed,
        {"batch": BATCH, **SIZES},
    )

    def right(learner: Any) -> float:
        return float((learner.apply(scores, test_images).argmax(-1) == test_labels).mean())

    done = options.run(lesson, lambda learner: f"{right(learner):.1%} of the test digits are correct")
    draw(options, done.learners, test_images, test_labels)
    options.demand("test accuracy", {name: right(x) for name, x in done.learners.items()}, BAR)


# ---- The picture --------------------------------------------------------------------------------------------


def draw(options: Options, learners: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> None:
    """Draw one test image of each digit, and the attention rollout from the last layer's class token to its patches."""
    chosen = np.array([np.flatnonzero(labels == digit)[0] for digit in range(10)])
    light, read = {}, {}
    for name, learner in learners.items():
        rolled = plots.rollout(learner.apply(looks, images[chosen]))  # images tokens tokens
        light[NAMES[name]] = rolled[:, 0, 1:].reshape(-1, 4, 4)
        read[name] = learner.apply(scores, images[chosen]).argmax(-1)
    names = [
        f"{labels[i]}, read as " + " / ".join(str(each[k]) for each in read.values())
        for k, i in enumerate(chosen)
    ]
    figure = plots.lit_images(
        images[chosen, ..., 0],
        light,
        names,
        title="Image patches that the prediction depends on",
        label="rollout of the class token",
    )
    plots.save(figure, options.output / "rollout.png")


if __name__ == "__main__":
    main()
