"""Inputs of a mechanism at several sizes: the batch and the lengths vary, features and heads are fixed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from attention_bridge.catalogue import Mechanism, Part
from attention_bridge.parity.run import Arrays

BATCH = "batch"
LENGTHS = ("query", "key", "height", "width")
MULTIPLES = ("block_size", "chunk_length", "num_landmarks")  # arguments that must divide the length
LONGEST = ("max_len", "length")  # arguments that limit the length
FREE = ("MixtureOfBlockAttention",)  # mechanisms whose blocks need not divide the length


def varying(mechanism: Mechanism) -> tuple[str, ...]:
    """The axes whose sizes may change between calls: the batch, and each length that is not fixed."""
    fixed = ("height", "width") if "grid_size" in _arguments(mechanism) else ()
    given = {axis for axes in (*mechanism.inputs.values(), *mechanism.tokens.values()) for axis in axes}
    return tuple(axis for axis in (BATCH, *LENGTHS) if axis in given and axis not in fixed)


def multiple(mechanism: Mechanism) -> int:
    """The number that must divide every length."""
    if mechanism.module.name in FREE:
        return 1
    arguments = _arguments(mechanism)
    return next((arguments[name] for name in MULTIPLES if name in arguments), 1)


def smallest(mechanism: Mechanism) -> int:
    """The smallest length above 0 that the mechanism accepts."""
    return max(multiple(mechanism), _arguments(mechanism).get("reduction", 1))


def longest(mechanism: Mechanism) -> int | None:
    """The largest length that the mechanism accepts; None for no limit."""
    arguments = _arguments(mechanism)
    return next((arguments[name] for name in LONGEST if name in arguments), None)


def sizes_at(mechanism: Mechanism, step: int) -> Mapping[str, int]:
    """The size of each axis at a step: the catalogue's sizes at step 0; all varying axes grow with the step."""
    most = longest(mechanism)
    sizes = {**mechanism.sizes, BATCH: mechanism.sizes[BATCH] + step}
    for number, axis in enumerate(axis for axis in varying(mechanism) if axis != BATCH):
        sizes[axis] += step * (1 + number) * multiple(mechanism)
        sizes[axis] = sizes[axis] if most is None else min(sizes[axis], most)
    return sizes


def example(mechanism: Mechanism, sizes: Mapping[str, int]) -> Arrays:
    """Random required inputs in float32, by name."""
    rng = np.random.default_rng(3)
    given: Arrays = {
        name: rng.standard_normal([sizes[axis] for axis in axes]).astype(np.float32)
        for name, axes in mechanism.inputs.items()
    }
    for name, axes in mechanism.tokens.items():
        given[name] = rng.integers(0, sizes["vocab"], [sizes[axis] for axis in axes]).astype(np.int32)
    return given


def _arguments(mechanism: Mechanism) -> dict[str, Any]:
    """The arguments of the constructor and of the parts passed to it, by name."""
    found: dict[str, Any] = {}
    waiting = [mechanism.module]
    while waiting:
        for name, value in waiting.pop().arguments.items():
            if isinstance(value, Part):
                waiting.append(value)
            else:
                found.setdefault(name, value)
    return found
