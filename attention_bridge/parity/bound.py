"""The bound of a comparison together with the figures that it follows from, so that it can be computed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attention_bridge.parity.measure import (
    COARSE,
    CONSTANT,
    MOST_OWN,
    SMALL,
    SMALL_GRADIENT,
    coarse_tolerance,
    own_tolerance,
    tolerances,
)

IN_DOUBLE = "1e-12, since the float64 reference is rounded as well"
OF_SUMS = f"{CONSTANT:g} u sqrt(n) for outputs and {CONSTANT:g} u sqrt(3 n) for gradients, n = terms summed"
IN_16_BITS = (
    f"{CONSTANT:g} max(u, e), e = error of PyTorch in this dtype; at most {SMALL:g} for outputs and "
    f"{SMALL_GRADIENT:g} for gradients"
)
OF_MODELS = (
    f"{CONSTANT:g} max(b, e), b = {OF_SUMS}, e = error of PyTorch in this dtype, of which at most "
    f"{MOST_OWN['output']:g} for outputs and {MOST_OWN['gradient']:g} for gradients count in all"
)


@dataclass(frozen=True)
class Bound:
    """The largest errors that rounding explains, and the figures that they follow from.

    Attributes:
        dtype: name of the coarsest floating-point dtype of weights and inputs.
        terms: number of terms summed between the inputs and the outputs, see `summed_terms`.
        reference_errors: largest error of the yardstick in this dtype, for `output` and `gradient`; None if the bound
            follows from the sums alone.
    """

    dtype: str
    terms: int
    reference_errors: Mapping[str, float] | None = None

    def tolerances(self) -> dict[str, float]:
        """The bounds of `output` and `gradient`."""
        if self.reference_errors is None:
            return tolerances(self.dtype, self.terms)
        if self.dtype in COARSE:
            return {kind: coarse_tolerance(self.dtype, e, kind) for kind, e in self.reference_errors.items()}
        sums = tolerances(self.dtype, self.terms)
        return {kind: own_tolerance(sums[kind], e, kind) for kind, e in self.reference_errors.items()}

    @property
    def derivation(self) -> str:
        """How the bound is derived, in words; u is the unit roundoff of the dtype."""
        if self.reference_errors is None:
            return IN_DOUBLE if self.dtype == "float64" else OF_SUMS
        return IN_16_BITS if self.dtype in COARSE else OF_MODELS
