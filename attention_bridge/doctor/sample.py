"""Samples of the positions of a long sequence, so that a diagnosis takes no longer than for a short one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attention_bridge.doctor.layer import compute
from attention_bridge.doctor.port import Array, Port
from attention_bridge.doctor.suspects import Suspect, planted
from attention_bridge.parity.measure import error

FEW = 8  # queries of one sequence that every mistake is first tried on
SEQUENCES = 4  # most sequences of a sample
SCORES = 2**20  # most scores of a sample; a case with fewer is computed whole


@dataclass(frozen=True)
class Sample:
    """Some of the candidate's outputs, and the layer that computes only these.

    Attributes:
        port: the correct layer, restricted to these positions.
        outputs: outputs of the candidate at these positions.
        reference: outputs of the reference at these positions.
        scale: largest magnitude of the whole reference; errors are relative to it.
    """

    port: Port
    outputs: Array
    reference: Array
    scale: float

    def distance(self, computed: Array) -> float:
        """Error of the outputs; NaN equals NaN."""
        missing = np.isnan(computed)
        if not np.array_equal(missing, np.isnan(self.outputs)):
            return np.inf
        with np.errstate(invalid="ignore"):
            return error(np.where(missing, 0.0, self.outputs), np.where(missing, 0.0, computed), self.scale)

    def squares(self, computed: Array) -> float:
        """Sum of the squared differences; values that are not finite in both count as equal."""
        if not np.array_equal(np.isfinite(self.outputs), np.isfinite(computed)):
            return np.inf
        finite = np.isfinite(computed)
        return float(np.sum((self.outputs[finite] - computed[finite]) ** 2))

    def after(self, suspects: tuple[Suspect, ...]) -> float:
        """The smallest error left by planting the mistakes, over all their forms."""
        return min((self.distance(compute(wrong)) for wrong in planted(self.port, suspects)), default=np.inf)


def take(port: Port, outputs: Array, reference: Array, *, few: bool = False) -> Sample:
    """Choose the positions that differ most and evenly spread others; all positions of a small case.

    Args:
        port: the correct layer, for all positions.
        outputs: outputs of the candidate, `(batch, query, features)`.
        reference: outputs of the reference, of the same shape, finite.
        few: whether to take only the queries of one sequence that differ most.
    """
    distance = np.nan_to_num(np.abs(outputs - reference), nan=np.inf).max(axis=-1, initial=0.0)  # batch query
    sequences, rows = _few(distance) if few else _spread(port, distance)
    scale = float(np.max(np.abs(reference), initial=0.0))
    chosen = np.ix_(sequences, rows)
    return Sample(port.only(sequences, rows), outputs[chosen], reference[chosen], scale)


def _few(distance: Array) -> tuple[Array, Array]:
    sequence = int(np.argmax(distance.max(axis=1)))
    return np.array([sequence]), np.argsort(-distance[sequence], kind="stable")[:FEW]


def _spread(port: Port, distance: Array) -> tuple[Array, Array]:
    batch, length = distance.shape
    cost = port.setting.num_heads * port.keys.shape[1]  # scores per query
    if batch * length * cost <= SCORES:
        return np.arange(batch), np.arange(length)
    sequences = np.sort(np.argsort(-distance.max(axis=1), kind="stable")[:SEQUENCES])
    number = min(length, max(FEW, SCORES // (len(sequences) * cost)))
    most = np.argsort(-distance[sequences].max(axis=0), kind="stable")[: number // 2]
    others = np.linspace(0, length - 1, number - len(most)).round().astype(int)
    return sequences, np.union1d(most, others)
