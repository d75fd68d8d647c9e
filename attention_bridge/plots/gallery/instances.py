"""Arguments, weights and inputs of each mechanism on the sentence, in numpy and equal in both frameworks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from attention_bridge.catalogue import Mechanism, Part
from attention_bridge.catalogue.part import build
from attention_bridge.plots.gallery.sentence import GRID, ORDER, WORDS, features, numbers, reader

LENGTH = len(WORDS)
SLOTS = 5
# Arguments that differ from the catalogue's instances, which are made for fewer tokens.
ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "LearnedEmbedding": {"max_len": LENGTH},
    "SlidingWindowAttention": {"window": 6},
    "ChunkedAttention": {"chunk_size": 6},
    "LongformerAttention": {"one_sided_window": 2},
    "BigBirdAttention": {"block_size": 3},
    "StreamingAttention": {"window": 5, "num_sinks": 2},
    "LinformerAttention": {"length": LENGTH, "projected_length": 6},
    "NystromAttention": {"num_landmarks": 6},
    "TopKAttention": {"top_k": 4},
    "DeepSeekSparseAttention": {"top_k": 6},
    "MixtureOfBlockAttention": {"block_size": 4},
    "LSHAttention": {"chunk_length": 4},
    "WindowAttention": {"window_size": 2},
    "ShiftedWindowAttention": {"window_size": 2},
    "CosineWindowAttention": {"window_size": 2},
    "DecomposedPositionAttention": {"grid_size": GRID},
    "ShawEmbedding": {"max_distance": 4},
    "ShawSelfAttention": {"max_distance": 4},
}
# Parameters whose random values would be unlike a trained layer.
CONSTANTS = {
    "norm.weight": 1.0,
    "norm_scale": 1.0,
    "D": 1.0,
    "logit_scale": float(np.log(10.0)),
    "A_log": -2.0,
    "forget_proj.bias": 2.0,
    "f_b_proj.bias": 0.0,
}


def part(mechanism: Mechanism) -> Part:
    """The catalogue's instance of the mechanism, with arguments that fit the 24 words."""
    given = mechanism.module
    told = ARGUMENTS.get(mechanism.name, {})
    config, position = given.arguments.get("config"), given.arguments.get("position")
    if isinstance(config, Part):
        told = {"config": replace(config, arguments={**config.arguments, "max_len": LENGTH})}
    elif isinstance(position, Part) and told.keys() <= position.arguments.keys() and told:
        told = {"position": replace(position, arguments={**position.arguments, **told})}
    return replace(given, arguments={**given.arguments, **told})


def parameters(what: Part) -> dict[str, np.ndarray]:
    """Weights and buffers by their canonical names, in float64; weights of one kind and shape are equal."""
    module = build(what, "torch_attention", {"device": "meta"})
    return {name: _parameter(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()}


def inputs(mechanism: Mechanism) -> dict[str, np.ndarray]:
    """Inputs of the mechanism, a batch of one; queries of cross-attention are the words in another order."""
    given = {name: numbers()[None] for name in mechanism.tokens}
    crossed = {"memory", "key"} & mechanism.inputs.keys()
    for name, axes in mechanism.inputs.items():
        words = features(mechanism.sizes[axes[-1]])
        if "height" in axes:
            words = words.reshape(*GRID, -1)
        elif crossed and name in ("query", "x"):
            words = words[ORDER]
        given[name] = words[None]
    if "noise" in given:  # initial slots, which are not words
        given["noise"] = np.random.default_rng(0).standard_normal((1, SLOTS, given["noise"].shape[-1]))
    return given | {name: _argument(name, x) for name, x in mechanism.arguments.items()}


def _parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    constant = next((value for end, value in CONSTANTS.items() if name.endswith(end)), None)
    if constant is None and name.rpartition(".")[2] in ("bias", "bias_ih", "bias_hh", "dt_bias", "sinks"):
        constant = 0.0
    if constant is not None:
        return np.full(shape, constant)
    if name.endswith("proj.weight") and len(shape) == 2:
        return reader(*shape)
    if name.endswith("_map"):  # mixes heads; close to the identity
        return np.eye(shape[0], shape[1]) + 0.4 * np.random.default_rng(shape).standard_normal(shape)
    spread = 1.0 if name.endswith(("features", "rotations", "embedding.weight")) or len(shape) < 2 else 0.6
    return spread * np.random.default_rng(shape).standard_normal(shape)


def _argument(name: str, like: np.ndarray) -> np.ndarray:
    """A further argument of the call, resized from the catalogue's instance to the 24 words."""
    rows, columns = np.divmod(np.arange(LENGTH), GRID[1])
    if name == "positions":
        axes = [np.arange(LENGTH)] if like.ndim == 2 else [0 * rows, rows, columns][-like.shape[-1] :]
        return (axes[0] if like.ndim == 2 else np.stack(axes, axis=-1))[None].astype(np.int32)
    if name == "global_tokens":
        return np.isin(np.arange(LENGTH), (0, 15))[None]  # the first words of the first and the last phrase
    if name == "random_blocks":
        blocks = LENGTH // ARGUMENTS["BigBirdAttention"]["block_size"]
        return np.random.default_rng(1).integers(0, blocks, (len(like), blocks, 1)).astype(np.int32)
    if name == "previous":
        looked = np.exp(-0.5 * ((np.arange(LENGTH) - 6) / 1.5) ** 2)
        return (looked / looked.sum())[None]
    raise ValueError(
        f"the gallery has no value for the argument {name}; add one in attention_bridge.plots.gallery.instances"
    )
