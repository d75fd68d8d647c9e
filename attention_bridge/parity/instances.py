"""The smallest instance of each mechanism, the same in both frameworks: weights, inputs, masks and modules.

All values are random bfloat16 numbers, so that every dtype holds them exactly and one reference serves all dtypes.
PyTorch is imported only where one of its modules is built.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from flax import nnx

from attention_bridge.catalogue import Mechanism, Part
from attention_bridge.catalogue.part import build, jax_shapes
from attention_bridge.parity.run import Arrays, is_float, on_bfloat16_grid, on_platform, torch_device
from attention_bridge.weights import transfer

if TYPE_CHECKING:
    import torch

MASKS = (
    "none",
    "query key",
    "batch query key",
    "batch heads query key",
    "padding",
    "causal",
    "window",
    "causal and padding",
    "empty row",
)
KEY_MASKS = ("none", "padding", "empty row")  # for mechanisms that mask a key for all queries or for none
WEIGHTS_SEED, INPUTS_SEED = 1, 2
DROPOUT = 0.5  # 1 / (1 - rate) is exact


def cases(mechanism: Mechanism, dtype: str) -> tuple[str, ...]:
    """The kinds of mask that the mechanism takes, and `dropout` if it takes a dropout mask."""
    keyed = all(axes[1:3] == ("one", "one") for axes in mechanism.masks.values())
    masks = MASKS if not keyed else KEY_MASKS if mechanism.masks else MASKS[:1]
    native = mechanism.native is not None and dtype == "bfloat16"  # such a peer takes no dropout mask
    return (*masks, "dropout") if mechanism.keep and not native else masks


@cache
def parameters(mechanism: Mechanism) -> Arrays:
    """Random weights and buffers of the mechanism by canonical name, bfloat16 values in float64."""
    rng = np.random.default_rng(WEIGHTS_SEED)
    module = build(mechanism.module, "torch_attention", {"device": "meta"})
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    drawn = {name: 0.4 * rng.standard_normal(shape) for name, shape in shapes.items()}
    return {
        name: on_bfloat16_grid(x + 1.0 if name.endswith("norm.weight") else x) for name, x in drawn.items()
    }


@cache
def inputs(mechanism: Mechanism, case: str) -> Arrays:
    """Random inputs of the mechanism with the masks of the case; floats are bfloat16 values in float64."""
    rng = np.random.default_rng(INPUTS_SEED)
    given = {
        name: on_bfloat16_grid(rng.standard_normal(mechanism.shape(axes)))
        for name, axes in mechanism.inputs.items()
    }
    for name, axes in mechanism.tokens.items():
        given[name] = rng.integers(0, mechanism.sizes["vocab"], mechanism.shape(axes)).astype(np.int32)
    for name, x in mechanism.arguments.items():
        given[name] = on_bfloat16_grid(x) if is_float(x) else x
    if case == "dropout":
        return {**given, "dropout_keep": rng.random(mechanism.shape(mechanism.keep)) < 1 - DROPOUT}
    if case != "none":
        masks = {name: mask(case, mechanism.shape(axes), rng) for name, axes in mechanism.masks.items()}
        if mechanism.family == "models":  # models read a mask of rank 2 as (batch, length)
            masks = {name: x[None] if x.ndim == 2 else x for name, x in masks.items()}
        given.update(masks)
    return given


def mask(case: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Make a mask of the kind `case` for attention weights of `shape`, (batch, heads, query, key)."""
    batch, heads, query_len, key_len = shape
    query, key = np.arange(query_len)[:, None], np.arange(key_len)
    padding = (key < rng.integers(1, key_len, (batch, 1)))[:, None, None]
    if case == "query key":
        return rng.random((query_len, key_len)) < 0.7
    if case == "batch query key":
        return rng.random((batch, query_len, key_len)) < 0.7
    if case == "padding":
        return padding
    if case == "causal":
        return key <= query
    if case == "window":
        return (key <= query) & (key > query - 3)
    if case == "causal and padding":
        return (key <= query) & padding
    random = rng.random((batch, heads, query_len, key_len)) < 0.7
    if case == "empty row":
        random[0, :, 1:2] = False  # one query of the first element is fully masked
        random[1, 0] = False  # every query of the second is, in one head
    return random


def with_full_masks(mechanism: Mechanism, given: Arrays) -> Arrays:
    """Broadcast every mask of the inputs to all of its four axes."""
    masks = {name: given[name] for name in mechanism.masks if name in given}
    four_axes = {name: x[:, None] if x.ndim == 3 else x for name, x in masks.items()}
    full = {
        name: np.array(np.broadcast_to(x, mechanism.shape(mechanism.masks[name])))
        for name, x in four_axes.items()
    }
    return {**given, **full}


def jax_with(part: Part, weights: Any, options: dict[str, Any]) -> nnx.Module:
    """Build a part from the JAX mirror with the given weights, in evaluation mode."""
    module = jax_shapes(part, options)
    module.eval()
    return transfer(weights, module)


@cache
def torch_module(mechanism: Mechanism, dtype: str, platform: str = "cpu") -> torch.nn.Module:
    """Build the mechanism in PyTorch with the weights of the proof, in evaluation mode."""
    import torch

    options = {"dtype": getattr(torch, dtype), "dropout": DROPOUT}
    module = build(mechanism.module, "torch_attention", options).to(torch_device(platform)).eval()
    return transfer(cast_parameters(mechanism, dtype), module)


@cache
def jax_module(mechanism: Mechanism, dtype: str, platform: str = "cpu") -> nnx.Module:
    """Build the mechanism in JAX with the weights of the proof, in evaluation mode."""
    options = {"param_dtype": dtype, "dropout": DROPOUT}
    with on_platform(platform, float64=dtype == "float64"):
        return jax_with(mechanism.module, cast_parameters(mechanism, dtype), options)


def cast_parameters(mechanism: Mechanism, dtype: str) -> Arrays:
    """Cast the mechanism's weights to a dtype, which holds them exactly."""
    return {name: x.astype(numpy_dtype(dtype)) for name, x in parameters(mechanism).items()}


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy dtype of a name, including `bfloat16`."""
    return np.dtype(getattr(ml_dtypes, dtype, dtype))
