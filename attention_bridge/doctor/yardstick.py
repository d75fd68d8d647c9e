"""What rounding explains: in 16 bits, what the doctor's own layer errs by when it is run in that dtype."""

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

# Times what the doctor's layer errs by in float32, where only results are rounded: sums are rounded as well in a port,
# and large scores make more of that than 4 u sqrt(n) says. Right layers with scores of hundreds err by 13 times.
SUMS = 16


@dataclass(frozen=True)
class Yardstick:
    """The bounds of a dtype.

    Attributes:
        dtype: the coarser one of the reference and the candidate.
        tolerance: the largest error that rounding explains in the right layer.
        usual: the largest root mean square of the error; infinite in 32 and 64 bits.
        coarse: what the right layer computes when it is run in that dtype; in float64 what it computes.
        reached: the largest error and root mean square that rounding explains even where these are not small
            against the outputs.
    """

    dtype: str
    tolerance: float
    usual: float
    coarse: Array
    reached: tuple[float, float]

    @classmethod
    def of(cls, dtype: str, sample: Sample, own: Array) -> Yardstick:
        """The yardstick of the right layer, which computes `own`."""
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
        """Whether rounding explains the difference of a whole output and the reference, which is rounded as well."""
        both = self.tolerance if self.dtype in COARSE else 2 * self.tolerance
        return error(outputs, reference) <= both and mean_error(outputs, reference) <= self.usual

    @property
    def is_loud(self) -> bool:
        """Whether rounding alone makes errors that are not small against the outputs."""
        return self.dtype in COARSE and self.reached[0] > SMALL

    def reaches(self, outputs: Array, reference: Array) -> bool:
        """Whether rounding explains the difference, were it small against the reference."""
        largest, usual = self.reached
        return error(outputs, reference) <= largest and mean_error(outputs, reference) <= usual

    def explains(self, sample: Sample, wrong: Port, made: Array) -> bool:
        """Whether rounding explains what is left when mistakes are planted; these have a rounding of their own.

        Args:
            sample: the outputs.
            wrong: the layer with the mistakes.
            made: what it computes.
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
    """The root of the mean square of the difference, relative to how far the numbers of the reference spread."""
    spread = float(np.std(reference)) or float(np.max(np.abs(reference), initial=0.0)) or 1.0
    return float(np.sqrt(np.mean((x - reference) ** 2))) / spread


def _run_in(dtype: str, port: Port) -> Array:
    return compute(replace(port, precision=dtype, stored=dtype))
