"""Mistakes that are hardly larger than rounding: told by what they leave of the squares of a difference.

Rounding has no direction. A mistake that is planted takes away most of the difference that it made, and only makes
larger what rounding made: `benchmarks.doctor` prints both. So a port is not healthy merely because its error is as
small as that of rounding.
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

# Of the squares of a difference: what is left at most when the mistake that made part of it is planted. Right ports in
# 16 and 32 bits leave 0.96 at least for every mistake that the doctor knows, where many queries share the difference.
LIKELY = 0.8
LIKELY_OF_FEW = 0.92  # judged by few queries, before all are
CERTAIN = 0.35  # where there are few numbers
LOUD = 0.1  # where rounding alone makes errors that are not small
MANY = 256  # numbers of which chance leaves nearly all of the squares
ROWS = 12  # queries that share an error, or its direction may be chance
STEP = 1e-3  # relative, of a derivative
EQUAL = 1.5  # times what the best one leaves: others that explain as well


def slight(
    few: Sample, sample: Sample, groups: Iterable[tuple[Suspect, ...]], yard: Yardstick
) -> list[Finding]:
    """The mistakes that take away most of a difference, though rounding may be as large.

    Args:
        few: the queries that differ most; what makes nothing of these less is not tried further.
        sample: what decides.
        groups: mistakes made together.
        yard: what rounding explains.

    Returns:
        Those that explain, the best first.
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
    """The factor that takes away most of a difference, in words: of the outputs, the scores or the RoPE base.

    Args:
        sample: the outputs, whose error rounding explains by its size.
        yard: what rounding explains; in float64 nothing is told.
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
    for what, made in more.items():
        slope = (made - truth) / STEP
        if np.sum(slope**2) > UNIT_ROUNDOFF["float32"] ** 2 * np.sum(truth**2):
            amount, left = _along(sample.outputs - truth, slope)
            if _along(yard.coarse - truth, slope)[1] > LIKELY_OF_FEW:
                named[left] = f"a factor of {1 + amount:.4g} on {what}"
    least = min(named, default=1.0)
    return named[least] if least <= LIKELY else ""


def _along(difference: Array, slope: Array) -> tuple[float, float]:
    """How far a difference goes along a slope, and the share of its squares that is left."""
    amount = float(np.sum(difference * slope) / np.sum(slope**2))
    whole = float(np.sum(difference**2))
    return amount, float(np.sum((difference - amount * slope) ** 2)) / whole if whole else 1.0


def _share(sample: Sample, made: Array, truth: Array) -> float:
    """What is left of the squares of a difference with the mistakes."""
    whole = sample.squares(truth)
    return sample.squares(made) / whole if whole else np.inf


def _is_spread(sample: Sample, truth: Array) -> bool:
    """Whether many numbers of many queries share the difference, so that chance gives it no direction."""
    rows = ((sample.outputs - truth) ** 2).sum(axis=-1)
    return bool(rows.sum() ** 2 >= ROWS * (rows**2).sum() > 0 and sample.outputs.size >= MANY)


def finer(suspect: Suspect, dtype: str) -> bool:
    """Whether the mistake is a rounding that a port in this dtype makes anyway."""
    if suspect in ROUNDING:
        return True
    named = suspect.name.rpartition(" ")[2]
    return suspect in ROUNDED and named in UNIT_ROUNDOFF and UNIT_ROUNDOFF[named] <= UNIT_ROUNDOFF[dtype]


def singles(sample: Sample, dtype: str) -> list[tuple[Suspect, ...]]:
    """Every mistake that such a layer can have, and that is not the rounding of its dtype, alone."""
    return [(each,) for each in SUSPECTS if not finer(each, dtype) and planted(sample.port, (each,))]
