"""The mistake of a norm: its equation is fitted to the outputs of both models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attention_bridge.doctor.models.counts import Relation
from attention_bridge.parity.measure import error

Array = np.ndarray
EPS = (1e-5, 1e-6, 1e-8, 1e-12, 1e-3, 1e-4, 1e-7, 0.0)


@dataclass(frozen=True)
class Norm:
    """The equation of a norm over the last axis.

    Attributes:
        centred: whether the mean is subtracted, as in LayerNorm.
        offset: added to the weight, 1 as in Gemma.
        has_bias: whether the bias is added.
        has_weight: whether the result is multiplied by the weight.
        unbiased: whether the variance is divided by n - 1.
        eps: added to the variance or the mean square.
    """

    centred: bool
    offset: float = 0.0
    has_bias: bool = True
    has_weight: bool = True
    unbiased: bool = False
    eps: float = 1e-5

    def __call__(self, x: Array, weight: Array | None, bias: Array | None) -> Array:
        """Apply the norm."""
        y = x - x.mean(-1, keepdims=True) if self.centred else x
        y = y / np.sqrt((y * y).sum(-1, keepdims=True) / (x.shape[-1] - self.unbiased) + self.eps)
        if weight is not None and self.has_weight:
            y = y * (weight + self.offset)
        return y if bias is None or not self.has_bias else y + bias


def norm_mistake(
    x: Array, own: Mapping[str, Array], port: Array, right: Array, tolerance: float
) -> Relation | None:
    """Name the difference between two norms on one input.

    Args:
        x: the input, `(..., features)`.
        own: the reference's vectors by name.
        port: output of the port.
        right: output of the reference.
        tolerance: largest relative error that rounding explains.

    Returns:
        The mistake; None if no equation gives both outputs, or one gives both.
    """
    if any(vector.shape != x.shape[-1:] for vector in own.values()) or port.shape != x.shape:
        return None
    weight = next((own[name] for name in ("weight", "scale", "gamma") if name in own), None)
    bias = next((own[name] for name in ("bias", "beta") if name in own), None)
    theirs, ours = (_fitted(x, weight, bias, array, tolerance) for array in (right, port))
    if theirs is None or ours is None or theirs == ours:
        return None
    if ours.centred != theirs.centred:
        kinds = {True: "LayerNorm", False: "RMSNorm"}
        return Relation(
            f"applies {kinds[ours.centred]} where the reference applies {kinds[theirs.centred]}",
            f"apply {kinds[theirs.centred]}",
        )
    if ours.offset != theirs.offset:
        said = {0.0: "weight", 1.0: "1 + weight"}
        return Relation(
            f"multiplies by {said[ours.offset]} instead of {said[theirs.offset]}",
            f"multiply by {said[theirs.offset]}",
        )
    for field, what in (("has_bias", "bias"), ("has_weight", "weight")):
        if getattr(ours, field) != getattr(theirs, field):
            given = getattr(ours, field)
            verb = "uses its" if given else "does not use its"
            return Relation(f"{verb} {what}", f"{'leave out' if given else 'use'} the {what}")
    if ours.unbiased != theirs.unbiased:
        return Relation("divides the variance by another number than the reference", "divide by n")
    return Relation(f"has eps {ours.eps:g}, and the reference {theirs.eps:g}", f"set eps to {theirs.eps:g}")


def _fitted(
    x: Array, weight: Array | None, bias: Array | None, output: Array, tolerance: float
) -> Norm | None:
    """The norm that gives an output: of those that fit the one that is nearest."""
    forms = [
        Norm(centred, offset, has_bias, has_weight, unbiased)
        for centred in (True, False)
        for offset in ((0.0, 1.0) if weight is not None else (0.0,))
        for has_bias in ((True, False) if bias is not None else (True,))
        for has_weight in ((True, False) if weight is not None else (True,))
        for unbiased in ((False, True) if centred else (False,))
        if has_weight or not offset
    ]
    tried: list[tuple[float, Any]] = []
    for form in forms:
        for eps in EPS:
            norm = replace(form, eps=eps)
            with np.errstate(all="ignore"):
                tried.append((error(norm(x, weight, bias), output), norm))
    far, best = min(tried, key=lambda pair: pair[0])
    return best if far <= max(4 * tolerance, 1e-5) else None
