"""Verification of a conversion: the source runs in PyTorch and the target in JAX, on the same random input."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.catalogue.part import Part, build, jax_shapes
from attention_bridge.errors import InputError, require
from attention_bridge.pretrained.conversion import check_layouts
from attention_bridge.pretrained.families import Reading
from attention_bridge.pretrained.source import Source
from attention_bridge.weights import convert, stream, transfer
from attention_bridge.weights.layout import Layout

UNIT = 2.0**-24  # unit roundoff of float32
SEED = 0  # of the inputs


class Verified(NamedTuple):
    """The difference between the source and the target of a conversion.

    Attributes:
        model: name of the model class that was run.
        error: largest difference of the outputs, relative to the largest output.
        tolerance: largest error that rounding explains, for this model and input.
        outputs: number of compared values; only finite outputs of the source's model are compared.
        differing: names in `torch_attention` of tensors that are not bitwise equal.
    """

    model: str
    error: float
    tolerance: float
    outputs: int
    differing: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all tensors are bitwise equal and the outputs are equal up to rounding."""
        return not self.differing and self.error <= self.tolerance


def check(
    opened: Source,
    source: Layout | str,
    target: Layout | str,
    *,
    axes: Mapping[str, int] | None = None,
    option: str = "--verify",
) -> None:
    """Check that `verify` can run, before a conversion writes anything.

    Args:
        opened: the source, with the configuration of its model.
        source: its layout, or the name.
        target: the target's layout, or the name.
        axes: sizes of axes that the shapes do not give; None for none.
        option: option of the command that runs the model, for messages.

    Raises:
        ConversionError: the source does not fit its layout.
        InputError: packages are missing, or there is no configuration of a model that has these tensors.
    """
    reading = _reading(opened)
    check_layouts(source, target)
    reader = opened.reader
    canonical = stream(reader.specs, reader.read, source, "torch_attention", axes=axes, config=reading).specs
    wanted = build(reading.model, "torch_attention", {"device": "meta"}).state_dict()
    for name, spec in canonical.items():
        if name not in wanted or tuple(wanted[name].shape) != spec.shape:
            raise InputError(
                f"{option} cannot run: the configuration makes a {reading.model.name} without a tensor {name} of shape "
                f"{spec.shape}, which {opened.path} has"
            )


def verify(
    opened: Source,
    target_path: str | os.PathLike[str],
    source: Layout | str,
    target: Layout | str,
    *,
    axes: Mapping[str, int] | None = None,
) -> Verified:
    """Build the model from both checkpoints, one in each framework, and compare their outputs in float32.

    Args:
        opened: the source, with the configuration of its model; it is run in PyTorch.
        target_path: target checkpoint, run in JAX.
        source: the source's layout, or the name.
        target: the target's layout, or the name.
        axes: sizes of axes that the shapes do not give; None for none.

    Raises:
        InputError: packages are missing, or the source has no configuration.
    """
    reading = _reading(opened)
    import jax.numpy as jnp
    import torch

    from attention_bridge.parity.comparison import pinned_precision

    with checkpoints.open(target_path) as reader:
        written = dict(reader.items())
    ends = [
        convert(tensors, layout, "torch_attention", axes, reading)[0]
        for tensors, layout in ((dict(opened.items()), source), (written, target))
    ]
    differing = _differing(*ends)
    first, second = ({name: x.astype(np.float32) for name, x in end.items()} for end in ends)
    part = reading.model
    given = inputs(part)
    with pinned_precision(), torch.no_grad():
        model = torch_model(part)
        found, nearby = (
            transfer(weights, model)(*map(torch.from_numpy, given)) for weights in (first, _nudged(first))
        )
        other = transfer(second, jax_model(part))(*map(jnp.asarray, given))
    expected, near, output = (np.asarray(x[0], dtype=np.float64) for x in (found, nearby, other))
    finite = np.isfinite(expected) & np.isfinite(near)  # no bound holds after an overflow
    error, moved = (_distance(x[finite], expected[finite]) for x in (output, near))
    sums = sum(x.shape[-1] for name, x in first.items() if x.ndim >= 2 and "embedding" not in name)
    tolerance = 8 * max(UNIT * float(np.sqrt(sums)), moved)
    return Verified(part.name, error, tolerance, int(finite.sum()), differing)


def torch_model(part: Part) -> Any:
    """The PyTorch model in float32 and in evaluation mode, for weights that are yet to be transferred."""
    return build(part, "torch_attention", {"device": "meta"}).to_empty(device="cpu").eval()


def jax_model(part: Part) -> Any:
    """The JAX model in float32 and in evaluation mode, for weights that are yet to be transferred."""
    model = jax_shapes(part, {})
    model.eval()
    return model


def _reading(opened: Source) -> Reading:
    """The configuration of a source, if both frameworks are there to run its model."""
    require(("torch", "jax", "flax"), extra="torch,jax")
    if opened.reading is None:
        raise InputError("--verify needs the model's config.json beside the source, or --config")
    return opened.reading


def _distance(x: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected value; infinite if `x` is not finite."""
    largest = float(np.abs(x - expected).max(initial=0.0)) / (float(np.abs(expected).max(initial=0.0)) or 1.0)
    return largest if np.isfinite(largest) else float("inf")


def _differing(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The names of tensors that are not bitwise equal."""

    def bits(tensors: Mapping[str, np.ndarray], name: str) -> Any:
        return name in tensors and (tensors[name].shape, tensors[name].dtype, tensors[name].tobytes())

    names = dict.fromkeys((*first, *second))
    return tuple(name for name in names if bits(first, name) != bits(second, name))


def _nudged(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Perturb each value by about its rounding error, in order to measure the conditioning of a model."""
    rng = np.random.default_rng(1)
    return {
        name: (x * (1 + 2 * UNIT * rng.choice((-1, 1), x.shape))).astype(x.dtype)
        for name, x in tensors.items()
    }


def inputs(part: Part, length: int = 12) -> tuple[np.ndarray, ...]:
    """Random inputs for a model, in the order of its arguments."""
    rng = np.random.default_rng(SEED)
    config = part.arguments["config"].arguments
    if part.name == "TaskModel":
        backbone = config["backbone"]
        kinds = {
            "VisionHierarchySpec": "VisionHierarchy",
            "VisionTransformerConfig": "VisionTransformer",
            "WaveformSpec": "WaveformEncoder",
        }
        return inputs(Part(kinds.get(backbone.name, "Encoder"), {"config": backbone}), length)

    def tokens(sizes: Mapping[str, Any]) -> np.ndarray:
        most = min(length, sizes.get("max_len") or length)
        return rng.integers(0, sizes["vocab_size"], (2, most)).astype(np.int32)

    def image(sizes: Mapping[str, Any]) -> np.ndarray:
        return rng.standard_normal((2, *sizes["image_size"], sizes["in_channels"])).astype(np.float32)

    if part.name in ("VisionHierarchy", "VisionTransformer"):
        return (image(config),)
    if part.name == "ContrastiveModel":
        return tokens(config["text"].arguments), image(config["image"].arguments)
    if part.name == "SpeechTransformer":
        frames = min(2 * length, 2 * config["max_frames"])
        heard = rng.standard_normal((2, frames, config["num_features"])).astype(np.float32)
        return heard, tokens(config)
    if part.name == "WaveformEncoder":
        samples = length * int(np.prod(config["conv_strides"])) + 10 * max(config["conv_kernels"])
        return (rng.standard_normal((2, samples)).astype(np.float32),)
    if part.name in ("EncoderDecoder", "RelativeEncoderDecoder"):
        return tokens(config), tokens(config)
    return (tokens(config),)
