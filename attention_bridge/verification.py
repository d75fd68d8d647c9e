"""Both ends of a conversion run on the same random input: the source in PyTorch, the target in JAX."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from attention_bridge.building import build, jax_shapes
from attention_bridge.catalogue.mechanism import Part
from attention_bridge.conversion import tensors_of
from attention_bridge.errors import InputError
from attention_bridge.extras import require
from attention_bridge.families import read_config
from attention_bridge.weights import convert, transfer


class Verified(NamedTuple):
    """How far both ends are apart.

    Attributes:
        model: the class that was run.
        error: the largest difference, relative to the largest output.
        tolerance: what rounding explains.
        outputs: how many numbers were compared.
    """

    model: str
    error: float
    tolerance: float
    outputs: int

    @property
    def ok(self) -> bool:
        """Whether the two are equal but for rounding."""
        return self.error <= self.tolerance


def verify(
    source_path: str | os.PathLike[str],
    target_path: str | os.PathLike[str],
    source: str,
    target: str,
    *,
    config: Mapping[str, Any] | None,
    axes: Mapping[str, int] | None = None,
) -> Verified:
    """Build the model from both checkpoints, one in each framework, and compare what they compute in float32.

    Args:
        source_path, target_path: the two checkpoints.
        source, target: their layouts.
        config: the configuration of the model.
        axes: sizes of axes that the shapes do not give.

    Raises:
        InputError: there is no configuration that says what the model is.
    """
    require(("torch", "jax", "flax"), extra="torch,jax")
    if config is None:
        raise InputError("--verify needs the model's config.json beside the source, or --config")
    import jax.numpy as jnp
    import torch

    from attention_bridge.parity import pinned_precision

    ends = []
    for path, layout in ((source_path, source), (target_path, target)):
        hub, _ = convert(dict(tensors_of(path)), layout, "torch_attention", axes, config)
        ends.append({name: x.astype(np.float32) for name, x in hub.items()})
    part = read_config(config, dict(tensors_of(source_path))).model
    given = inputs(part)
    with pinned_precision(), torch.no_grad():
        model = build(part, "torch_attention", {"device": "meta"}).to_empty(device="cpu").eval()
        found = transfer(ends[0], model)(*map(torch.from_numpy, given))
        other_model = jax_shapes(part, {})
        other_model.eval()
        other = transfer(ends[1], other_model)(*map(jnp.asarray, given))
    expected, output = (np.asarray(x[0], dtype=np.float64) for x in (found, other))
    error = float(np.abs(output - expected).max() / np.abs(expected).max())
    sums = sum(x.shape[-1] for name, x in ends[0].items() if x.ndim >= 2 and "embedding" not in name)
    return Verified(part.name, error, 8 * 2.0**-24 * float(np.sqrt(sums)), expected.size)


def inputs(part: Part, length: int = 12) -> tuple[np.ndarray, ...]:
    """Random inputs that such a model takes, in the order of its arguments."""
    rng = np.random.default_rng(0)
    config = part.arguments["config"].arguments

    def tokens(sizes: Mapping[str, Any]) -> np.ndarray:
        most = min(length, sizes.get("max_len", length))
        return rng.integers(0, sizes["vocab_size"], (2, most)).astype(np.int32)

    def image(sizes: Mapping[str, Any]) -> np.ndarray:
        return rng.standard_normal((2, *sizes["image_size"], sizes["in_channels"])).astype(np.float32)

    if part.name == "VisionTransformer":
        return (image(config),)
    if part.name == "ContrastiveModel":
        return tokens(config["text"].arguments), image(config["image"].arguments)
    if part.name == "SpeechTransformer":
        frames = min(2 * length, 2 * config["max_frames"])
        heard = rng.standard_normal((2, frames, config["num_features"])).astype(np.float32)
        return heard, tokens(config)
    if part.name in ("EncoderDecoder", "RelativeEncoderDecoder"):
        return tokens(config), tokens(config)
    return (tokens(config),)
