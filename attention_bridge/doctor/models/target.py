"""An attention layer on one input, and the outputs that a computation is fitted to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from attention_bridge.doctor.models.core import Core, Given, attend
from attention_bridge.parity.measure import error

Array = np.ndarray


class Case(NamedTuple):
    """An attention layer on one input.

    Attributes:
        query, key, value: results of the projections, `(batch, length, features)`.
        right: output of the reference, before the output projection unless `project` is given.
        port: the same of the port.
        givens: masks, biases and KV caches that the layer may be given.
        embed: number of features of the layer's input.
        project: the output projection, if `right` and `port` are behind it; None if they are before it.
        before: queries and keys before the norms that the reference applies to them, by the names of these norms; empty
            if it applies none.
    """

    query: Array
    key: Array
    value: Array
    right: Array
    port: Array
    givens: tuple[Given, ...]
    embed: int
    project: Callable[[Array], Array] | None = None
    before: tuple[tuple[str, Array, Array], ...] = ()


class Target(NamedTuple):
    """Outputs of a layer that a computation is fitted to.

    Attributes:
        case: the layer.
        given: the mask, the bias and the KV cache of the computation.
        outputs: the outputs, of the reference or of the port.
        limit: largest relative error that rounding explains.
    """

    case: Case
    given: Given
    outputs: Array
    limit: float

    def made(self, core: Core) -> Array | None:
        """The outputs of a computation; None if it does not fit the shapes."""
        case = self.case
        try:
            with np.errstate(all="ignore"):
                made = attend(core, case.query, case.key, case.value, self.given)
                made = made if case.project is None else case.project(made)
        except ValueError:
            return None
        return made if made.shape == self.outputs.shape else None

    def far(self, core: Core) -> float:
        """The relative error of a computation."""
        made = self.made(core)
        return np.inf if made is None else error(made, self.outputs)

    def fits(self, core: Core) -> bool:
        """Whether a computation gives the outputs but for rounding."""
        return self.far(core) <= self.limit
