"""The positions that stand for all: what is computed of a long sequence takes no longer than of a short one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attention_bridge.doctor.layer import compute
from attention_bridge.doctor.port import Array, Port
from attention_bridge.doctor.suspects import Suspect, planted
from attention_bridge.parity.measure import error

FEW = 8  # queries of one sequence that all is judged by at first
SEQUENCES = 4  # at most
SCORES = 2**20  # that a larger sample may take to compute; a smaller case is computed as a whole


@dataclass(frozen=True)
class Sample:
    """Some of a port's outputs, and the layer that computes these alone.

    Attributes:
        port: the right layer, for these positions.
        outputs: of the candidate, at these positions.
        reference: at these positions.
        scale: what errors are relative to: the largest number of the whole reference.
    """

    port: Port
    outputs: Array
    reference: Array
    scale: float

    def distance(self, computed: Array) -> float:
        """The error of the outputs; where both are not numbers they are equal."""
        missing = np.isnan(computed)
        if not np.array_equal(missing, np.isnan(self.outputs)):
            return np.inf
        with np.errstate(invalid="ignore"):
            return error(np.where(missing, 0.0, self.outputs), np.where(missing, 0.0, computed), self.scale)

    def squares(self, computed: Array) -> float:
        """The sum of the squares of the difference; where both are not numbers they are equal."""
        if not np.array_equal(np.isfinite(self.outputs), np.isfinite(computed)):
            return np.inf
        finite = np.isfinite(computed)
        return float(np.sum((self.outputs[finite] - computed[finite]) ** 2))

    def after(self, suspects: tuple[Suspect, ...]) -> float:
        """What is left of the difference, in the form of the mistakes that leaves least."""
        return min((self.distance(compute(wrong)) for wrong in planted(self.port, suspects)), default=np.inf)


def take(port: Port, outputs: Array, reference: Array, *, few: bool = False) -> Sample:
    """The positions that differ most, and others evenly spread; all where these are not too many.

    Args:
        port: the right layer, for all positions.
        outputs: of the candidate, `(batch, query, features)`.
        reference: of the same shape, finite.
        few: whether the queries of one sequence that differ most are enough.
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
    cost = port.setting.num_heads * port.keys.shape[1]  # scores of one query
    if batch * length * cost <= SCORES:
        return np.arange(batch), np.arange(length)
    sequences = np.sort(np.argsort(-distance.max(axis=1), kind="stable")[:SEQUENCES])
    number = min(length, max(FEW, SCORES // (len(sequences) * cost)))
    most = np.argsort(-distance[sequences].max(axis=0), kind="stable")[: number // 2]
    others = np.linspace(0, length - 1, number - len(most)).round().astype(int)
    return sequences, np.union1d(most, others)
