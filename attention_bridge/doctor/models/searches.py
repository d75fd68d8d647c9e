"""Computations with one number of another value: RoPE's base, a linear scaling, ALiBi's slopes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from attention_bridge.doctor.models.core import Core, slopes
from attention_bridge.doctor.models.target import Target
from attention_bridge.parity.measure import error

BASES_TRIED = np.geomspace(10, 1e8, 141)
CAPS_TRIED = np.geomspace(0.5, 500, 61)
STRETCHES_TRIED = np.geomspace(1 / 64, 64, 121)


def _nearest(tried: np.ndarray, core_at: Callable[[float], Core], target: Target) -> float | None:
    """The value of a number with which outputs fit, rounded if that fits too; None if none does."""

    def at(value: float) -> float:
        return target.far(core_at(float(value)))

    errors = [at(value) for value in tried]
    place = int(np.argmin(errors))
    low, high = tried[max(place - 1, 0)], tried[min(place + 1, len(tried) - 1)]
    for _ in range(50):
        third = (high / low) ** (1 / 3)
        one, other = low * third, high / third
        low, high = (low, other) if at(one) < at(other) else (one, high)
    value = float(np.sqrt(low * high))
    whole = float(f"{value:.3g}")
    if at(whole) <= target.limit:
        return whole
    return value if at(value) <= target.limit else None


def other_base(core: Core, target: Target) -> Core | None:
    """The computation with the base of RoPE with which outputs fit; None if none does."""
    if core.rope == "none" or core.theta is not None:
        return None
    found = _nearest(BASES_TRIED, lambda base: replace(core, base=base), target)
    return None if found is None else replace(core, base=found)


def other_stretch(core: Core, target: Target) -> Core | None:
    """The computation with the linear scaling of positions with which outputs fit; None if none does."""
    if core.rope == "none":
        return None
    found = _nearest(STRETCHES_TRIED, lambda factor: replace(core, stretch=factor), target)
    return None if found is None else replace(core, stretch=found)


def other_softcap(core: Core, target: Target, bases: tuple[float, ...] = ()) -> Core | None:
    """The computation with the softcap of the scores with which outputs fit; None if none does.

    Args:
        core: a computation with another softcap or none.
        target: the outputs.
        bases: bases of RoPE that are tried; none for the one of `core`.
    """
    for base in bases if core.rope != "none" and bases else (core.base,):
        begin = replace(core, base=base)
        found = _nearest(CAPS_TRIED, lambda cap, begin=begin: replace(begin, softcap=cap), target)  # type: ignore[misc]
        if found is not None and found < CAPS_TRIED[-1]:
            return replace(begin, softcap=found)
    return None


def other_slopes(core: Core, target: Target) -> Core | None:
    """The computation with the slopes of ALiBi with which outputs fit; None if none do.

    The slopes that are tried are the paper's, a geometric series for any number of heads, and a series for the next
    power of two, with either sign, and zero. Each head is fitted alone.
    """
    if core.alibi == "none" or target.case.project is not None or target.outputs.shape[-1] % core.heads:
        return None
    right = np.split(target.outputs, core.heads, -1)
    best: list[tuple[float, float]] = [(np.inf, 0.0)] * core.heads
    for slope in _candidates(core.heads):
        made = target.made(replace(core, alibi="slopes", slopes=(slope,) * core.heads))
        if made is None:
            return None
        parts = np.split(made, core.heads, -1)
        best = [
            min(old, (error(part, own), slope)) for old, part, own in zip(best, parts, right, strict=True)
        ]
    found = replace(core, alibi="slopes", slopes=tuple(slope for _, slope in best))
    return found if target.fits(found) else None


def _candidates(heads: int) -> list[float]:
    """Slopes that libraries give to a number of heads, with both signs, and zero."""
    whole = 2 ** int(np.ceil(np.log2(heads)))
    series = 2.0 ** (-8 / heads * np.arange(1, heads + 1))
    every = 2.0 ** (-8 / whole * np.arange(1, whole + 1))
    ours = {*slopes(heads).tolist(), *series.tolist(), *every.tolist()}
    return [0.0, *sorted(ours), *(-each for each in sorted(ours))]
