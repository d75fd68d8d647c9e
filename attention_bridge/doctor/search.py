"""The search: plant each mistake, then each pair, and see which makes the difference vanish."""

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
MOST = 0.1  # what is left of a difference that is explained: this share at most, and no more than rounding
# Of the squares of a difference: what is left at most when the rounding that made it is planted. In `benchmarks.doctor`
# (9 layers, 3 seeds) true roundings to bfloat16, float16 and TF32 leave 0.17 at most, small mistakes 0.71 at least.
ALIKE = 0.35
NEAREST = 10  # that are listed
LESS = 0.999  # of the difference, or no effect is seen
SECONDS = 10.0  # that a diagnosis takes at most


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
    """Say why a port of attention gives other numbers than its reference.

    A port that is wrong computes with the reference's weights in a wrong way. The doctor has a layer of its own, in
    float64; it makes every mistake that it knows in it, alone and then in pairs, and names those that give the
    port's numbers. Of a long sequence some positions stand for all: those that differ most, and others evenly
    spread.

    Args:
        reference_outputs: `(batch, query, features)`, what is right.
        candidate: what the port gave, of the same shape; or the port itself, a function from `weights` to that, which
            is then asked again with other weights where these leave several mistakes possible.
        x: the input, `(batch, query, embed)`.
        weights: name to array, by the hub's names: `q_proj.weight` (out, in) and so on. With `ffn.up_proj`,
            `ffn.down_proj`, `attention_norm` or `ffn_norm` among them the layer has residuals too.
        setting: what the reference computes beside its weights.
        memory: `(batch, key, memory_dim)` where keys and values come from elsewhere.
        mask: boolean, True where the query attends to the key, of any rank that the mirrors take.
        seconds: time limit; after it no further mistake is tried, and the verdict says what was.
        progress: called with one line of progress now and then; None shows it on stderr if that is a terminal.

    Returns:
        The diagnosis; its `verdict` is one sentence.

    Raises:
        InputError: what is given does not fit together.
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
    """What explains the outputs, and what came nearest of all that was tried."""
    tolerance = yard.tolerance
    limit = min(tolerance, MOST * before)
    wrong = [suspect for suspect in SUSPECTS if suspect not in ROUNDING and planted(few.port, (suspect,))]
    tried = _tried(few, sample, [()], before, tolerance)
    single = list(combinations(wrong, 1))
    tried += _tried(few, sample, budget.each("mistakes", single), before, tolerance)
    if found := _best(tried, limit):
        return found, _nearest(sample, tried, budget)
    groups = singles(few, yard.dtype) if yard.dtype in COARSE else []
    if found := slight(few, sample, budget.each("mistakes beside rounding", groups), yard):
        return found, _nearest(sample, tried, budget)
    near = [finding.suspects for finding in tried if finding.suspects and finding.after <= MOST * before]
    for what, right, most in ("precisions", [()], inf), ("mistakes with a precision", near, MOST * before):
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
    """The nearest of what was tried, judged by the whole sample while there is time.

    What leaves as much as a part of it alone is not listed.
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
    """Those that explain: within the limit, and nearer to what the best one leaves than to the difference itself.

    Near is meant in orders of magnitude; a mistake of little effect is not named beside one that leaves nothing.
    """
    within = sorted((f for f in findings if f.after <= limit), key=lambda finding: finding.after)
    if not within:
        return []
    floor = max(within[0].after, UNIT_ROUNDOFF["float64"])
    return [finding for finding in within if finding.after <= sqrt(floor * finding.before)]


def _tried(
    few: Sample, sample: Sample, groups: Iterable[tuple[Suspect, ...]], before: float, tolerance: float
) -> list[Finding]:
    """Mistakes made together: judged by the few queries that differ most, and by the sample if they fit these."""
    findings = []
    first: dict[tuple[Suspect, ...], list[Port]] = {}  # that all pairs of one mistake share
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
    """Mistakes, the last of them a precision, whose rounding is to be seen in the numbers.

    How products are rounded differs a little from device to device, so the numbers are not met exactly; but what a
    precision does to the same factors takes away most of the difference, and what is no rounding it only makes
    larger. The mistakes must leave no more than `most`; the precision that leaves least is taken.
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
    """Those that also explain what the port makes of other weights, random ones; all if none does."""
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
    """What the port gave, or gives; the first of several results."""
    found = candidate(weights) if callable(candidate) else candidate
    array = as_array("candidate", found[0] if isinstance(found, tuple) else found)
    if not is_floating(array):
        raise InputError(f"candidate must be floating-point, got {array.dtype}")
    return array
