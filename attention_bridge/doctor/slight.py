"""Mistakes hardly larger than rounding, detected by the share of the squared difference that they explain.

Making the port's mistake in the reference too removes most of a difference that the mistake caused, but enlarges a
difference that rounding caused, because rounding errors are random; `benchmarks.doctor` prints both. So an error as
small as rounding is no proof of a correct port.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from attention_bridge.doctor.diagnosis import Finding
from attention_bridge.doctor.layer import compute
from attention_bridge.doctor.port import Array
from attention_bridge.doctor.sample import Sample
from attention_bridge.doctor.suspects import ROUNDED, ROUNDING, SUSPECTS, Suspect, planted
from attention_bridge.doctor.yardstick import Yardstick
from attention_bridge.parity.measure import UNIT_ROUNDOFF

# Largest share of the squared difference that may be left when a mistake that caused part of it is planted. Correct
# ports in 16 and 32 bits leave at least 0.96 for every known mistake, if the difference is spread over many queries.
LIKELY = 0.8
LIKELY_OF_FEW = 0.92  # the same, on the few queries tried first
CERTAIN = 0.35  # the same, if the difference is in few values
LOUD = 0.1  # the same, if rounding errors are not small relative to the outputs
MANY = 256  # values from which on chance explains hardly any of the squared difference
ROWS = 12  # queries that must share an error; with fewer, its direction may be chance
STEP = 1e-3  # relative step of a finite difference
EQUAL = 1.5  # a mistake that leaves up to this times the share of the best one also explains


def slight(
    few: Sample, sample: Sample, groups: Iterable[tuple[Suspect, ...]], yard: Yardstick
) -> list[Finding]:
    """Find the mistakes that explain most of a difference that may be as small as rounding.

    Args:
        few: the queries that differ most; a mistake that explains nothing of these is not tried further.
        sample: the sample that decides.
        groups: groups of mistakes planted together.
        yard: error bounds that rounding explains.

    Returns:
        The mistakes that explain the difference, best first.
    """
    truth, first = compute(sample.port), compute(few.port)
    part, before = few.squares(first), sample.distance(sample.reference)
    spread = _is_spread(sample, truth)
    if not spread and yard.reaches(sample.outputs, truth):
        return []
    right = replace(sample, outputs=yard.coarse)
    limit = LOUD if yard.is_loud else LIKELY if spread else CERTAIN
    found = []
    for group in groups:
        shares = [few.squares(compute(wrong)) for wrong in planted(few.port, group)]
        if min(shares, default=np.inf) > LIKELY_OF_FEW * part:
            continue
        for wrong in planted(sample.port, group):
            made = compute(wrong)
            share, after = _share(sample, made, truth), sample.distance(made)
            if (
                share <= limit
                and after < before
                and _share(right, made, truth) > LIKELY_OF_FEW
                and yard.explains(sample, wrong, made)
            ):
                found.append((share, Finding(group, before, after)))
    best = min((share for share, _ in found), default=0.0)
    return [finding for share, finding in sorted(found, key=lambda each: each[0]) if share <= EQUAL * best]


def direction(sample: Sample, yard: Yardstick) -> str:
    """Describe the factor, on outputs, scores, attention weights or RoPE base, that explains most of a difference.

    Args:
        sample: the outputs, whose error is no larger than a rounding error.
        yard: error bounds that rounding explains.

    Returns:
        The factor in words; empty if there is none, and always in float64.
    """
    port, setting, truth = sample.port, sample.port.setting, compute(sample.port)
    if yard.dtype == "float64" or not _is_spread(sample, truth):
        return ""
    more = {"the outputs": truth * (1 + STEP), "the scores": compute(port.set(scale=port.scale * (1 + STEP)))}
    values = {name: w * (1 + STEP) for name, w in port.weights.items() if name.startswith("v_proj.")}
    more["the attention weights"] = compute(port.put(values))
    if setting.rope != "none":
        more["the RoPE base"] = compute(port.set(rope_base=setting.rope_base * (1 + STEP)))
    named = {}
    for factor, made in more.items():
        slope = (made - truth) / STEP
        if np.sum(slope**2) > UNIT_ROUNDOFF["float32"] ** 2 * np.sum(truth**2):
            amount, left = _along(sample.outputs - truth, slope)
            if _along(yard.coarse - truth, slope)[1] > LIKELY_OF_FEW:
                named[left] = f"a factor of {1 + amount:.4g} on {factor}"
    least = min(named, default=1.0)
    return named[least] if least <= LIKELY else ""


def _along(difference: Array, slope: Array) -> tuple[float, float]:
    """Least-squares coefficient of a slope in a difference, and the share of the squared difference left."""
    amount = float(np.sum(difference * slope) / np.sum(slope**2))
    whole = float(np.sum(difference**2))
    return amount, float(np.sum((difference - amount * slope) ** 2)) / whole if whole else 1.0


def _share(sample: Sample, made: Array, truth: Array) -> float:
    """Share of the squared difference left when the mistakes are planted."""
    whole = sample.squares(truth)
    return sample.squares(made) / whole if whole else np.inf


def _is_spread(sample: Sample, truth: Array) -> bool:
    """Whether the difference is spread over many values and queries, so that its direction is not chance."""
    rows = ((sample.outputs - truth) ** 2).sum(axis=-1)
    return bool(rows.sum() ** 2 >= ROWS * (rows**2).sum() > 0 and sample.outputs.size >= MANY)


def finer(suspect: Suspect, dtype: str) -> bool:
    """Whether the mistake is a rounding that every port in this dtype makes."""
    if suspect in ROUNDING:
        return True
    named = suspect.name.rpartition(" ")[2]
    return suspect in ROUNDED and named in UNIT_ROUNDOFF and UNIT_ROUNDOFF[named] <= UNIT_ROUNDOFF[dtype]


def singles(sample: Sample, dtype: str) -> list[tuple[Suspect, ...]]:
    """All single mistakes possible in this layer, without the rounding of its dtype."""
    return [(each,) for each in SUSPECTS if not finer(each, dtype) and planted(sample.port, (each,))]
