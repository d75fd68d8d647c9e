"""Dropout that both frameworks draw alike: keep-masks from numpy, which stand for the draws of either.

They come from Philox (Salmon, Moraes, Dror & Shaw 2011, https://doi.org/10.1145/2063384.2063405), which counts where
other generators remember: what is drawn in a step does not depend on what was drawn before it, so a run that is
taken up again drops what it would have dropped.
"""

from collections.abc import Mapping

import numpy as np

from attention_bridge.errors import InputError


def keep_masks(
    shapes: Mapping[str, tuple[int, ...]], rate: float, *, seed: int, step: int
) -> dict[str, np.ndarray]:
    """Which entries to keep in one step of training.

    Args:
        shapes: the places where something is dropped, in an order of their own, and their shapes.
        rate: the probability that an entry is dropped, in [0, 1).
        seed: of the run, at least 0.
        step: of the run, at least 0.

    Returns:
        A boolean array a place, True where an entry is kept; the same whenever it is asked.

    Raises:
        InputError: a rate, seed or step outside its range.
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
