"""Mistakes that are hardly larger than rounding: told by what they leave of the squares of a difference.

Rounding has no direction. A mistake that is planted takes away most of the difference that it made, and only makes
larger what rounding made: `benchmarks.doctor` prints both. So a port is not healthy merely because its error is as
small as that of rounding.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from attention_bridge.doctor.diagnosis import Finding
from attention_bridge.doctor.layer import compute
from attention_bridge.doctor.port import Array
from attention_bridge.doctor.sample import Sample
from attention_bridge.doctor.suspects import ROUNDED, ROUNDING, SUSPECTS, Suspect, planted
from attention_bridge.doctor.yardstick import Yardstick
from attention_bridge.measure import UNIT_ROUNDOFF

# Of the squares of a difference: what is left at most when the mistake that made part of it is planted. Right ports in
# 16 and 32 bits leave 0.96 at least for every mistake that the doctor knows, where many queries share the difference.
LIKELY = 0.8
LIKELY_OF_FEW = 0.92  # judged by few queries, before all are
CERTAIN = 0.35  # where there are few numbers
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
    whole, part, before = sample.squares(truth), few.squares(first), sample.distance(sample.reference)
    limit = LIKELY if _is_spread(sample, truth) else CERTAIN
    found = []
    for group in groups:
        shares = [few.squares(compute(wrong)) for wrong in planted(few.port, group)]
        if min(shares, default=np.inf) > LIKELY_OF_FEW * part:
            continue
        for wrong in planted(sample.port, group):
            made = compute(wrong)
            share, after = sample.squares(made) / whole if whole else np.inf, sample.distance(made)
            if share <= limit and after < before and yard.explains(sample, wrong, made):
                found.append((share, Finding(group, before, after)))
    best = min((share for share, _ in found), default=0.0)
    return [finding for share, finding in sorted(found, key=lambda each: each[0]) if share <= EQUAL * best]


def direction(sample: Sample, dtype: str) -> str:
    """The factor that takes away most of a difference, in words: of the outputs, the scores or the RoPE base.

    Args:
        sample: the outputs, whose error rounding explains by its size.
        dtype: of the outputs; in float64 nothing is told.
    """
    port, setting, truth = sample.port, sample.port.setting, compute(sample.port)
    if dtype == "float64" or not _is_spread(sample, truth):
        return ""
    more = {"the outputs": truth * (1 + STEP), "the scores": compute(port.set(scale=port.scale * (1 + STEP)))}
    values = {name: w * (1 + STEP) for name, w in port.weights.items() if name.startswith("v_proj.")}
    more["the attention weights"] = compute(port.put(values))
    if setting.rope != "none":
        more["the RoPE base"] = compute(port.set(rope_base=setting.rope_base * (1 + STEP)))
    difference, named = sample.outputs - truth, {}
    whole = float(np.sum(difference**2))
    for what, made in more.items():
        slope = (made - truth) / STEP
        steep = float(np.sum(slope**2))
        if steep > (UNIT_ROUNDOFF["float32"] ** 2) * float(np.sum(truth**2)):
            amount = float(np.sum(difference * slope)) / steep
            named[1 - amount**2 * steep / whole] = f"a factor of {1 + amount:.4g} on {what}"
    least = min(named, default=1.0)
    return named[least] if least <= LIKELY else ""


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
