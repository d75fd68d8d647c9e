"""Explicit dropout masks from numpy, equal in both frameworks.

They come from Philox (Salmon, Moraes, Dror & Shaw 2011, https://doi.org/10.1145/2063384.2063405), a counter-based
generator: the masks of a step do not depend on earlier steps, so a resumed run has the same masks as an uninterrupted
one.
"""

from collections.abc import Mapping

import numpy as np

from attention_bridge.errors import InputError


def keep_masks(
    shapes: Mapping[str, tuple[int, ...]], rate: float, *, seed: int, step: int
) -> dict[str, np.ndarray]:
    """Sample the dropout masks of one training step.

    Args:
        shapes: shape of each mask by name; the order of the names matters.
        rate: probability that an entry is dropped, in [0, 1).
        seed: seed of the run, at least 0.
        step: step of the run, at least 0.

    Returns:
        One boolean dropout mask per name, True keeps; the same for equal arguments.

    Raises:
        InputError: a rate, seed or step is out of range.
    """
    if not 0.0 <= rate < 1.0:
        raise InputError(f"rate must be in [0, 1), got {rate}")
    if min(seed, step) < 0:
        raise InputError(f"seed and step must be at least 0, got {seed} and {step}")
    return {
        name: np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, place, step])).random(shape)
        >= rate
        for place, (name, shape) in enumerate(shapes.items())
    }
