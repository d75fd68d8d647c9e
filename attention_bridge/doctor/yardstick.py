"""What rounding explains: in 16 bits, what the doctor's own layer errs by when it is run in that dtype."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from attention_bridge.doctor.layer import compute
from attention_bridge.doctor.port import Array, Port
from attention_bridge.doctor.sample import Sample
from attention_bridge.measure import COARSE, coarse_tolerance, error, summed_terms, tolerances


@dataclass(frozen=True)
class Yardstick:
    """The bounds of a dtype.

    Attributes:
        dtype: the coarser one of the reference and the candidate.
        tolerance: the largest error that rounding explains in the right layer.
        usual: the largest root mean square of the error; infinite in 32 and 64 bits.
    """

    dtype: str
    tolerance: float
    usual: float

    @classmethod
    def of(cls, dtype: str, sample: Sample, own: Array) -> Yardstick:
        """The yardstick of the right layer, which computes `own`."""
        if dtype in COARSE:
            return cls(dtype, *_run_in(dtype, sample.port, own, sample.scale))
        terms = summed_terms(sample.port.weights, {"x": sample.port.x, "memory": sample.port.memory})
        return cls(dtype, tolerances(dtype, terms)["output"], np.inf)

    def fits(self, outputs: Array, reference: Array) -> bool:
        """Whether rounding explains the difference of a whole output and the reference, which is rounded as well."""
        both = self.tolerance if self.dtype in COARSE else 2 * self.tolerance
        return error(outputs, reference) <= both and mean_error(outputs, reference) <= self.usual

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
        tolerance, usual = _run_in(self.dtype, wrong, made, sample.scale)
        return sample.distance(made) <= tolerance and mean_error(sample.outputs, made) <= usual


def mean_error(x: Array, reference: Array) -> float:
    """The root of the mean square of the difference, relative to how far the numbers of the reference spread."""
    spread = float(np.std(reference)) or float(np.max(np.abs(reference), initial=0.0)) or 1.0
    return float(np.sqrt(np.mean((x - reference) ** 2))) / spread


def _run_in(dtype: str, port: Port, exact: Array, scale: float) -> tuple[float, float]:
    coarse = compute(replace(port, precision=dtype, stored=dtype))
    largest = coarse_tolerance(dtype, error(coarse, exact, scale))
    return largest, coarse_tolerance(dtype, mean_error(coarse, exact))
