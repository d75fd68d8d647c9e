"""Frequencies of RoPE, slopes of ALiBi and buckets of T5, in numpy, from their papers."""

import math

import numpy as np

from parity_tests.helpers.doctor_cases.shape import BUCKETS, FAR, Rope

FACTORS = {"linear": 4.0, "llama3": 8.0, "yarn": 4.0}
ORIGINAL = 64.0  # length of training before the scaling


def frequencies(rope: Rope) -> tuple[np.ndarray, float]:
    """Angles per position, and the factor on cosine and sine."""
    pairs = np.arange(0, rope.turned, 2)
    theta = rope.base ** (-pairs / rope.turned)
    if not rope.scaling:
        return theta, 1.0
    factor = FACTORS[rope.scaling]
    if rope.scaling == "linear":
        return theta / factor, 1.0
    if rope.scaling == "llama3":
        wavelength = 2 * math.pi / theta
        smooth = (ORIGINAL / wavelength - 1) / (4 - 1)
        kept = np.clip(smooth, 0, 1)
        return theta * (kept + (1 - kept) / factor), 1.0

    def turns(count: float) -> float:
        return rope.turned * math.log(ORIGINAL / (count * 2 * math.pi)) / (2 * math.log(rope.base))

    low, high = max(math.floor(turns(32)), 0), min(math.ceil(turns(1)), rope.turned - 1)
    ramp = np.clip((np.arange(rope.turned // 2) - low) / (high - low), 0, 1)
    return theta * (1 - ramp) + theta / factor * ramp, 0.1 * math.log(factor) + 1


def slopes(heads: int) -> np.ndarray:
    """ALiBi's slopes, for any number of heads."""
    power = 2 ** math.floor(math.log2(heads))
    first = 2.0 ** (-8 / power * np.arange(1, power + 1))
    rest = 2.0 ** (-4 / power * np.arange(1, 2 * (heads - power), 2))
    return np.concatenate([first, rest])


def buckets(queries: int, keys: int, *, two_sided: bool) -> np.ndarray:
    """T5's buckets of the distances, `(query, key)`."""
    distance = np.arange(keys) - np.arange(queries)[:, None]
    count, base = BUCKETS, np.zeros_like(distance)
    if two_sided:
        count //= 2
        base = (distance > 0) * count
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = count // 2
    large = exact + (
        np.log(np.maximum(distance, 1) / exact) / math.log(FAR / exact) * (count - exact)
    ).astype(int)
    return base + np.where(distance < exact, distance, np.minimum(large, count - 1))
