"""The error measure of all comparisons, and the bound that rounding explains.

The measure is err(x) = max|x - reference| / max|reference|, and the bound is err <= 4 u sqrt(n), with u the unit
roundoff of the dtype and n the number of terms summed. In 16-bit dtypes the bound is four times the reference's own
error in that dtype. Neither framework is needed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

CONSTANT = 4.0
COARSE = ("float16", "bfloat16")  # in these dtypes 4 u sqrt(n) may exceed 1
# The largest error that counts as small relative to the values. In 16 bits, correct layers have errors up to 0.01 in
# `benchmarks.doctor` and the catalogue's outputs up to 0.02; four times these is below the bound. An output of zeros
# has error 1. Gradients have larger errors because terms cancel: the catalogue's encoder and decoder reach 0.11.
SMALL = 0.1
SMALL_GRADIENT = 0.2
# The largest error that counts as rounding in a model of one's own in float32.
MOST_OWN = {"output": 1e-4, "gradient": 1e-3}
UNDERFLOW = 2.0**-126  # the smallest normal number of float32 and bfloat16
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def error(x: np.ndarray, reference: np.ndarray, scale: float | None = None) -> float:
    """Relative error max|x - reference| / scale, with scale max|reference| by default.

    The error is infinite if shapes differ, `x` is not finite, or the scale is zero and `x` is not. Except in float64, a
    distance below the smallest normal number of float32 counts as zero, since underflow explains it.
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
    """The largest errors that rounding explains after sums of `terms` terms in all: 4 u sqrt(terms).

    A gradient has three times the terms: forward, back to the inputs, and into the parameters. In float64 the bound is
    1e-12, since the reference is rounded as well.
    """
    if dtype == "float64":
        return {"output": 1e-12, "gradient": 1e-12}
    unit = CONSTANT * UNIT_ROUNDOFF[dtype]
    return {"output": unit * terms**0.5, "gradient": unit * (3 * terms) ** 0.5}


def coarse_tolerance(dtype: str, reference_error: float, kind: str = "output") -> float:
    """The 16-bit tolerance: four times the error of the reference run in the same dtype.

    Args:
        dtype: `float16` or `bfloat16`.
        reference_error: error of the reference run in that dtype, against the reference in float64.
        kind: `output` or `gradient`.

    Returns:
        The bound: at least four times the unit roundoff, and at most `SMALL` or `SMALL_GRADIENT`.
    """
    most = SMALL_GRADIENT if kind == "gradient" else SMALL
    return min(most, CONSTANT * max(UNIT_ROUNDOFF[dtype], reference_error))


def own_tolerance(bound: float, reference_error: float, kind: str = "output") -> float:
    """The tolerance of a model that is not of the mirrors, in float32.

    Later layers enlarge the rounding of earlier ones, so the model has four times the bound of one mechanism,
    or four times the error of the reference in the same dtype if that is more.

    Args:
        bound: bound that sums alone explain, from `tolerances`.
        reference_error: error of the reference run in the same dtype, against the reference in float64.
        kind: `output` or `gradient`.

    Returns:
        A bound of at least `CONSTANT * bound`, and otherwise at most `MOST_OWN` of the kind.
    """
    return CONSTANT * max(bound, min(MOST_OWN[kind] / CONSTANT, reference_error))


def ulps(err: float, scale: float, dtype: str) -> float:
    """An error relative to `scale` in units in the last place (ULP) of `scale` in a dtype.

    Args:
        err: relative error, from `error`.
        scale: the magnitude to which the error is relative.
        dtype: a key of `UNIT_ROUNDOFF`.
    """
    mantissa = float(
        np.frexp(scale)[0]
    )  # 1 ULP is twice the unit roundoff times the power of two below the scale
    return err * mantissa / UNIT_ROUNDOFF[dtype] if err and np.isfinite(err) else err


def summed_terms(parameters: Mapping[str, np.ndarray], inputs: Mapping[str, Any]) -> int:
    """Number of terms summed between the inputs and the outputs.

    Every matrix product sums over the columns; attention sums over features and keys, which are axes of the inputs.
    """
    fan_in = sum(x.shape[-1] for x in parameters.values() if x.ndim > 1)
    return fan_in + sum(size for x in inputs.values() if isinstance(x, np.ndarray) for size in x.shape)
