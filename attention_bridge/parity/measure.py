"""The one measure of how far numbers are from what is right, and the bound that rounding explains.

err(x) = max|x - reference| / max|reference|, and err <= 4 u sqrt(n): see `attention_bridge.parity.comparison`. In
dtypes of 16 bits the bound is four times the reference's own error in that dtype. Neither framework is needed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

CONSTANT = 4.0
COARSE = ("float16", "bfloat16")  # in these 4 u sqrt(n) may exceed 1
# The largest error that is small against the numbers themselves. Right layers in 16 bits err by up to 0.01 in
# `benchmarks.doctor`, the catalogue's outputs by 0.02, four times which is below; zeros err by 1. In gradients terms
# cancel: those of the catalogue's encoder and decoder err by up to 0.11.
SMALL = 0.1
SMALL_GRADIENT = 0.2
UNDERFLOW = 2.0**-126  # the least normal number of float32 and of bfloat16
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def error(x: np.ndarray, reference: np.ndarray, scale: float | None = None) -> float:
    """max|x - reference| / scale, the scale being max|reference|.

    Infinite where shapes differ, x is not finite, or the scale is zero and x is not. What underflow explains, a
    distance below the least normal number of float32, is no error of a coarser dtype than float64.
    """
    if x.shape != reference.shape:
        return float("inf")
    if x.size == 0:
        return 0.0
    scale = float(np.max(np.abs(reference))) if scale is None else scale
    with np.errstate(invalid="ignore"):
        distance = float(np.max(np.abs(x.astype(np.float64) - reference)))
    if distance <= (0.0 if x.dtype == np.float64 else UNDERFLOW):
        return 0.0
    return distance / scale if scale and np.isfinite(distance) else float("inf")


def tolerances(dtype: str, terms: int) -> dict[str, float]:
    """The largest errors that rounding explains after sums of so many terms in all: 4 u sqrt(terms).

    A gradient goes the way three times: forward, back to the inputs, and into the parameters. In float64 the
    bound is 1e-12, for there the reference is rounded as well.
    """
    if dtype == "float64":
        return {"output": 1e-12, "gradient": 1e-12}
    unit = CONSTANT * UNIT_ROUNDOFF[dtype]
    return {"output": unit * terms**0.5, "gradient": unit * (3 * terms) ** 0.5}


def coarse_tolerance(dtype: str, reference_error: float, kind: str = "output") -> float:
    """The 16-bit tolerance: four times the error of the reference run in the same dtype.

    Args:
        dtype: `float16` or `bfloat16`.
        reference_error: of the reference, run in that dtype, against the reference in float64.
        kind: `output` or `gradient`.

    Returns:
        At least four times the unit roundoff, and never more than is small against the numbers themselves.
    """
    most = SMALL_GRADIENT if kind == "gradient" else SMALL
    return min(most, CONSTANT * max(UNIT_ROUNDOFF[dtype], reference_error))


def summed_terms(parameters: Mapping[str, np.ndarray], inputs: Mapping[str, Any]) -> int:
    """How many terms are summed on the way from the inputs to the outputs.

    Every matrix sums over its columns; attention sums over features and keys, which are axes of the inputs.
    """
    fan_in = sum(x.shape[-1] for x in parameters.values() if x.ndim > 1)
    return fan_in + sum(size for x in inputs.values() if isinstance(x, np.ndarray) for size in x.shape)
