"""Error bounds that rounding explains, from the doctor's own layer run in the same dtype."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from attention_bridge.doctor.layer import compute
from attention_bridge.doctor.port import Array, Port
from attention_bridge.doctor.sample import Sample
from attention_bridge.parity.measure import (
    COARSE,
    CONSTANT,
    SMALL,
    coarse_tolerance,
    error,
    summed_terms,
    tolerances,
)

# Factor on the float32 error of the doctor's layer, which rounds results only. A port also rounds within sums, and
# large scores amplify that beyond 4 u sqrt(n): correct layers with scores in the hundreds reach 13 times this error.
SUMS = 16


@dataclass(frozen=True)
class Yardstick:
    """Error bounds of a dtype.

    Attributes:
        dtype: the coarser dtype of the reference and the candidate.
        tolerance: largest error of the correct layer that rounding explains.
        usual: largest root-mean-square error that rounding explains; infinite in 32 and 64 bits.
        coarse: outputs of the correct layer run in `dtype`.
        reached: largest error and root-mean-square error that rounding explains, even where they are not small
            relative to the outputs.
    """

    dtype: str
    tolerance: float
    usual: float
    coarse: Array
    reached: tuple[float, float]

    @classmethod
    def of(cls, dtype: str, sample: Sample, own: Array) -> Yardstick:
        """Make the yardstick of the correct layer, whose float64 outputs are `own`."""
        terms = summed_terms(sample.port.weights, {"x": sample.port.x, "memory": sample.port.memory})
        fine = tolerances(dtype, terms)["output"]
        if dtype == "float64":
            return cls(dtype, fine, np.inf, own, (fine, np.inf))
        coarse = _run_in(dtype, sample.port)
        largest, usual = error(coarse, own, sample.scale), mean_error(coarse, own)
        if dtype not in COARSE:
            return cls(
                dtype, max(fine, min(SMALL, SUMS * largest)), np.inf, coarse, (SUMS * largest, SUMS * usual)
            )
        bounds = coarse_tolerance(dtype, largest), coarse_tolerance(dtype, usual)
        return cls(dtype, *bounds, coarse, (CONSTANT * largest, CONSTANT * usual))

    def fits(self, outputs: Array, reference: Array) -> bool:
        """Whether rounding explains the difference between outputs and reference, both of which are rounded."""
        both = self.tolerance if self.dtype in COARSE else 2 * self.tolerance
        return error(outputs, reference) <= both and mean_error(outputs, reference) <= self.usual

    @property
    def is_loud(self) -> bool:
        """Whether rounding alone makes errors that are not small relative to the outputs."""
        return self.dtype in COARSE and self.reached[0] > SMALL

    def reaches(self, outputs: Array, reference: Array) -> bool:
        """Whether rounding explains the difference, ignoring whether it is small relative to the reference."""
        largest, usual = self.reached
        return error(outputs, reference) <= largest and mean_error(outputs, reference) <= usual

    def explains(self, sample: Sample, wrong: Port, made: Array) -> bool:
        """Whether rounding explains the rest of the difference once mistakes are planted.

        The bounds come from the layer with the mistakes, which rounds differently from the correct one.

        Args:
            sample: the candidate's outputs.
            wrong: the layer with the mistakes.
            made: outputs of that layer.
        """
        if self.dtype not in COARSE:
            return sample.distance(made) <= self.tolerance
        if not np.isfinite(made).all():
            return False
        coarse = _run_in(self.dtype, wrong)
        tolerance = coarse_tolerance(self.dtype, error(coarse, made, sample.scale))
        usual = coarse_tolerance(self.dtype, mean_error(coarse, made))
        return sample.distance(made) <= tolerance and mean_error(sample.outputs, made) <= usual


def mean_error(x: Array, reference: Array) -> float:
    """Root-mean-square difference relative to the standard deviation of the reference."""
    spread = float(np.std(reference)) or float(np.max(np.abs(reference), initial=0.0)) or 1.0
    return float(np.sqrt(np.mean((x - reference) ** 2))) / spread


def _run_in(dtype: str, port: Port) -> Array:
    return compute(replace(port, precision=dtype, stored=dtype))
