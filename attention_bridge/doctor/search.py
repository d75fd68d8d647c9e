"""The search: plant each mistake, then each pair, and find those that make the difference vanish."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import combinations
from math import inf, sqrt
from typing import Any

import numpy as np

from attention_bridge.doctor.budget import Budget, on_terminal
from attention_bridge.doctor.case import as_array, as_float64, is_floating, make_port
from attention_bridge.doctor.diagnosis import Diagnosis, Finding
from attention_bridge.doctor.layer import compute
from attention_bridge.doctor.memo import Memo
from attention_bridge.doctor.port import Array, Port
from attention_bridge.doctor.sample import Sample, take
from attention_bridge.doctor.setting import Setting
from attention_bridge.doctor.slight import direction, singles, slight
from attention_bridge.doctor.suspects import ROUNDING, SUSPECTS, Suspect, planted
from attention_bridge.doctor.yardstick import Yardstick
from attention_bridge.errors import InputError
from attention_bridge.parity.measure import COARSE, UNIT_ROUNDOFF, error, tolerances

Candidate = Any | Callable[[Mapping[str, Any]], Any]
MOST = 0.1  # an explanation leaves at most this share of the difference, and no more than rounding
# The largest share of the squared difference that may be left when the rounding that made it is planted. In
# `benchmarks.doctor` (9 layers, 3 seeds) true roundings to bfloat16, float16 and TF32 leave at most 0.17, and small
# mistakes at least 0.71.
ALIKE = 0.35
NEAREST = 10  # findings listed
LESS = 0.999  # a mistake that leaves more of the difference has no effect
SECONDS = 10.0  # time limit of a diagnosis


def diagnose(
    reference_outputs: Any,
    candidate: Candidate,
    *,
    x: Any,
    weights: Mapping[str, Any],
    setting: Setting,
    memory: Any = None,
    mask: Any = None,
    seconds: float = SECONDS,
    progress: Callable[[str], object] | None = None,
) -> Diagnosis:
    """Diagnose why the outputs of a ported attention layer differ from its reference.

    A faulty port uses the reference's weights incorrectly. The doctor computes the layer itself, in float64. It
    plants every mistake that it knows, first alone and then in pairs, and names those that reproduce the port's
    outputs. Of a long sequence it uses a sample of the positions: those that differ most, and evenly spread others.

    Args:
        reference_outputs: outputs of the reference, `(batch, query, features)`.
        candidate: outputs of the port, of the same shape; or the port itself, a function from `weights` to outputs,
            which is called again with random weights if the first outputs leave several mistakes possible.
        x: input of the layer, `(batch, query, embed)`.
        weights: arrays by their names in the canonical layout: `q_proj.weight` (out, in) and so on. With
            `ffn.up_proj`, `ffn.down_proj`, `attention_norm` or `ffn_norm` among them the layer also has residuals.
        setting: hyperparameters of the reference.
        memory: source of keys and values, `(batch, key, memory_dim)`; None for self-attention.
        mask: boolean mask, True where a query may attend to a key, `(query, key)`, `(batch, query, key)` or
            `(batch|1, heads|1, query|1, key)`; None for no mask.
        seconds: time limit; after it no further mistake is tried, and the verdict lists the mistakes tried.
        progress: called with lines of progress; None shows them on stderr if that is a terminal.

    Returns:
        The diagnosis; its `verdict` is one sentence.

    Raises:
        InputError: the arguments do not fit together.
    """
    with on_terminal(progress) as say:
        port = make_port(x, weights, setting, memory, mask)
        return _diagnose(port, reference_outputs, candidate, weights, Budget(seconds, say))


def _diagnose(
    port: Port, reference_outputs: Any, candidate: Candidate, weights: Mapping[str, Any], budget: Budget
) -> Diagnosis:
    reference = as_float64("reference_outputs", reference_outputs)
    shape = (*port.x.shape[:2], port.out_dim)
    if reference.shape != shape:
        raise InputError(f"reference_outputs must have shape {shape}, got {reference.shape}")
    given = _outputs(candidate, weights)
    outputs = given.astype(np.float64)
    if outputs.shape != shape:
        raise InputError(f"candidate must have the shape of reference_outputs, {shape}, got {outputs.shape}")

    port = replace(port, memo=Memo())
    sample = take(port, outputs, reference)
    own = compute(sample.port)
    dtypes = (given.dtype.name, as_array("reference_outputs", reference_outputs).dtype.name)
    yard = Yardstick.of(max(dtypes, key=UNIT_ROUNDOFF.__getitem__), sample, own)
    before, mine = error(outputs, reference), error(sample.reference, own, sample.scale)
    tolerance = yard.tolerance
    healthy, known = yard.fits(outputs, reference), mine <= tolerance
    most = tolerance if yard.dtype in COARSE else 2 * tolerance  # both are rounded
    if healthy and not (known and before > tolerances("float64", 1)["output"]):
        return Diagnosis("healthy", before, most)
    if not known:
        return Diagnosis("other setting", mine, tolerance)

    few = take(port, outputs, reference, few=True)
    if healthy:
        groups = budget.each("mistakes", singles(few, yard.dtype))
        explanations = ranking = slight(few, sample, groups, yard)
    else:
        explanations, ranking = _search(few, sample, before, yard, budget)
    if callable(candidate) and len(explanations) > 1:
        explanations = _told_apart(explanations, candidate, port, weights, tolerance)
    if healthy and not explanations:
        aim = direction(sample, yard)
        return Diagnosis("unexplained" if aim else "healthy", before, most, stopped=budget.stopped, aim=aim)
    if not explanations and yard.dtype in COARSE and yard.reaches(outputs, reference):
        return Diagnosis(
            "unexplained", before, tolerance, (), tuple(ranking), budget.stopped, coarse=yard.dtype
        )
    status = "diagnosed" if explanations else "unexplained"
    return Diagnosis(status, before, tolerance, tuple(explanations), tuple(ranking), budget.stopped)


def _search(
    few: Sample, sample: Sample, before: float, yard: Yardstick, budget: Budget
) -> tuple[list[Finding], list[Finding]]:
    """The findings that explain the outputs, and the nearest of all findings tried."""
    tolerance = yard.tolerance
    limit = min(tolerance, MOST * before)
    wrong = [suspect for suspect in SUSPECTS if suspect not in ROUNDING and planted(few.port, (suspect,))]
    tried = _tried(few, sample, [()], before, tolerance)
    single = list(combinations(wrong, 1))
    tried += _tried(few, sample, budget.each("mistakes", single), before, tolerance)
    if found := _best(tried, limit):
        return found, _nearest(sample, tried, budget)
    groups = singles(few, yard.dtype) if yard.dtype in COARSE else []
    if found := slight(few, sample, budget.each("mistakes as small as rounding", groups), yard):
        return found, _nearest(sample, tried, budget)
    near = [finding.suspects for finding in tried if finding.suspects and finding.after <= MOST * before]
    for what, right, most in (
        ("low precisions", [()], inf),
        ("mistakes with a low precision", near, MOST * before),
    ):
        groups = [(*group, rounding) for group in right for rounding in ROUNDING]
        if alike := _rounded_alike(sample, budget.each(what, groups), most):
            finding = Finding(alike, before, sample.after(alike))
            if finding.after < before:
                return [finding], _nearest(sample, tried, budget)
    after = {finding.suspects: finding.after for finding in tried}
    pairs = sorted(combinations(wrong, 2), key=lambda pair: min(after.get((each,), inf) for each in pair))
    tried += _tried(few, sample, budget.each("pairs", pairs), before, tolerance)
    return _best(tried, limit), _nearest(sample, tried, budget)


def _nearest(sample: Sample, tried: list[Finding], budget: Budget) -> list[Finding]:
    """The nearest of the findings tried, measured on the whole sample while time is left.

    A pair that leaves as much as one of its mistakes alone is not listed.
    """
    after = {finding.suspects: finding.after for finding in tried}
    nearer = [
        finding
        for finding in tried
        if finding.suspects
        and all(
            finding.after < LESS * after[part]
            for part in combinations(finding.suspects, len(finding.suspects) - 1)
        )
    ]
    nearer = sorted(nearer, key=lambda finding: finding.after)[:NEAREST]
    judged = [f if budget.is_over else replace(f, after=sample.after(f.suspects)) for f in nearer]
    return sorted((f for f in judged if f.after < LESS * f.before), key=lambda finding: finding.after)


def _best(findings: list[Finding], limit: float) -> list[Finding]:
    """The findings that explain: within the limit, and nearer to the best one than to the whole difference.

    Distance is in orders of magnitude, so a mistake of little effect is not named beside one that leaves nothing.
    """
    within = sorted((f for f in findings if f.after <= limit), key=lambda finding: finding.after)
    if not within:
        return []
    floor = max(within[0].after, UNIT_ROUNDOFF["float64"])
    return [finding for finding in within if finding.after <= sqrt(floor * finding.before)]


def _tried(
    few: Sample, sample: Sample, groups: Iterable[tuple[Suspect, ...]], before: float, tolerance: float
) -> list[Finding]:
    """Try groups of mistakes on the few queries that differ most, and on the whole sample if they fit these."""
    findings = []
    first: dict[tuple[Suspect, ...], list[Port]] = {}  # ports with the first mistake, shared by all its pairs
    for group in groups:
        if group[:-1] not in first:
            first[group[:-1]] = planted(few.port, group[:-1])
        wrong = [each for port in first[group[:-1]] for each in planted(port, group[-1:])]
        after = min((few.distance(compute(each)) for each in wrong), default=inf)
        if after <= 2 * tolerance:
            after = sample.after(group)
        findings.append(Finding(group, before, after))
    return findings


def _rounded_alike(
    sample: Sample, groups: Iterable[tuple[Suspect, ...]], most: float
) -> tuple[Suspect, ...] | None:
    """Find a group of mistakes, the last of them a precision, whose rounding explains the outputs.

    Devices round products a little differently, so the outputs are not matched exactly. But planting the true
    precision removes most of the difference, while it only enlarges a difference that is no rounding. The other
    mistakes must leave an error of at most `most`; the precision that leaves least is chosen.
    """
    nearest, found = ALIKE, None
    for *wrong, rounding in groups:
        for exact in planted(sample.port, wrong):
            truth = compute(exact)
            if not 0 < sample.distance(truth) <= most:
                continue
            for coarse in rounding.plant(exact):
                share = sample.squares(compute(coarse)) / sample.squares(truth)
                if share <= nearest:
                    nearest, found = share, (*wrong, rounding)
    return found


def _told_apart(
    findings: list[Finding],
    candidate: Callable[[Mapping[str, Any]], Any],
    port: Port,
    weights: Mapping[str, Any],
    tolerance: float,
) -> list[Finding]:
    """The findings that also explain the port's outputs for random weights; all of them if none does."""
    rng = np.random.default_rng(0)
    drawn = {}
    for name, given in weights.items():
        array = as_array(name, given)
        spread = array.shape[-1] ** -0.5 if array.ndim > 1 else 1.0
        drawn[name] = (spread * rng.standard_normal(array.shape)).astype(array.dtype)
    other = make_port(port.x, drawn, port.setting, port.memory, port.mask)
    outputs = _outputs(candidate, drawn).astype(np.float64)
    sample = take(other, outputs, np.nan_to_num(outputs))
    left = [f for f in findings if f.is_rounding or sample.after(f.suspects) <= tolerance]
    return left or findings


def _outputs(candidate: Candidate, weights: Mapping[str, Any]) -> Array:
    """The outputs of the port, called if it is a function; the first of several results."""
    found = candidate(weights) if callable(candidate) else candidate
    array = as_array("candidate", found[0] if isinstance(found, tuple) else found)
    if not is_floating(array):
        raise InputError(f"candidate must be floating-point, got {array.dtype}")
    return array
