"""The search: plant each mistake, then each pair, and see which makes the difference vanish."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import combinations
from math import inf, sqrt
from typing import Any

import numpy as np

from attention_bridge.doctor.case import as_array, as_float64, is_floating, make_port
from attention_bridge.doctor.diagnosis import Diagnosis, Finding
from attention_bridge.doctor.layer import compute
from attention_bridge.doctor.port import Array, Port
from attention_bridge.doctor.setting import Setting
from attention_bridge.doctor.suspects import ROUNDING, SUSPECTS, Suspect, planted
from attention_bridge.errors import InputError
from attention_bridge.measure import COARSE, UNIT_ROUNDOFF, coarse_tolerance, error, summed_terms, tolerances

Candidate = Any | Callable[[Mapping[str, Any]], Any]
MOST = 0.1  # what is left of a difference that is explained: this share at most, and no more than rounding
ALIKE = 0.5  # of the squares of a difference: what is left at most when the rounding that made it is planted
NEAREST = 10  # that are listed
LESS = 0.999  # of the difference, or no effect is seen
ROWS = 8  # queries that all is judged by at first


def diagnose(
    reference_outputs: Any,
    candidate: Candidate,
    *,
    x: Any,
    weights: Mapping[str, Any],
    setting: Setting,
    memory: Any = None,
    mask: Any = None,
) -> Diagnosis:
    """Say why a port of attention gives other numbers than its reference.

    A port that is wrong computes with the reference's weights in a wrong way. The doctor has a layer of its own, in
    float64; it makes every mistake that it knows in it, alone and then in pairs, and names those that give the
    port's numbers.

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

    Returns:
        The diagnosis; its `verdict` is one sentence.

    Raises:
        InputError: what is given does not fit together.
    """
    port = make_port(x, weights, setting, memory, mask)
    reference = as_float64("reference_outputs", reference_outputs)
    own = compute(port)
    if reference.shape != own.shape:
        raise InputError(f"reference_outputs must have shape {own.shape}, got {reference.shape}")
    given = _outputs(candidate, weights)
    outputs = given.astype(np.float64)
    if outputs.shape != own.shape:
        raise InputError(
            f"candidate must have the shape of reference_outputs, {own.shape}, got {outputs.shape}"
        )

    dtypes = (given.dtype.name, as_array("reference_outputs", reference_outputs).dtype.name)
    dtype = max(dtypes, key=UNIT_ROUNDOFF.__getitem__)
    terms = summed_terms(port.weights, {"x": port.x, "memory": port.memory})
    before, mine = error(outputs, reference), error(reference, own)
    if dtype in COARSE:
        coarse = compute(replace(port, precision=dtype, stored=dtype))
        tolerance = coarse_tolerance(dtype, error(coarse, own))
        usual = coarse_tolerance(dtype, _mean_error(coarse, own))
        healthy, most = before <= tolerance and _mean_error(outputs, reference) <= usual, tolerance
    else:
        tolerance = tolerances(dtype, terms)["output"]
        healthy, most = before <= 2 * tolerance, 2 * tolerance  # both are rounded
    if healthy:
        return Diagnosis("healthy", before, most)
    if mine > tolerance:
        return Diagnosis("other setting", mine, tolerance)

    explanations, ranking = _search(port, outputs, before, tolerance)
    if callable(candidate) and len(explanations) > 1:
        explanations = _told_apart(explanations, candidate, port, weights, tolerance)
    status = "diagnosed" if explanations else "unexplained"
    return Diagnosis(status, before, tolerance, tuple(explanations), tuple(ranking))


def _search(
    port: Port, outputs: Array, before: float, tolerance: float
) -> tuple[list[Finding], list[Finding]]:
    """What explains the outputs, and what came nearest of all that was tried."""
    limit = min(tolerance, MOST * before)
    wrong = [suspect for suspect in SUSPECTS if suspect not in ROUNDING and planted(port, (suspect,))]
    tried: list[Finding] = []
    for number in (0, 1, 2):
        tried += _tried(port, combinations(wrong, number), outputs, before, tolerance)
        if found := _best(tried, limit):
            return found, _nearest(port, tried, outputs)
    for number, most in (0, inf), (1, MOST * before):
        groups = [(*group, rounding) for group in combinations(wrong, number) for rounding in ROUNDING]
        if alike := _rounded_alike(port, groups, outputs, most):
            finding = Finding(alike, before, _after(port, alike, outputs))
            if finding.after < before:
                return [finding], _nearest(port, tried, outputs)
    return [], _nearest(port, tried, outputs)


def _nearest(port: Port, tried: list[Finding], outputs: Array) -> list[Finding]:
    """The nearest of what was tried, judged by all outputs; what leaves as much as a part of it alone is not listed."""
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
    judged = [replace(finding, after=_after(port, finding.suspects, outputs)) for finding in nearer]
    return sorted((f for f in judged if f.after < LESS * f.before), key=lambda finding: finding.after)


def _after(port: Port, suspects: tuple[Suspect, ...], outputs: Array) -> float:
    """What is left of the difference, in the form of the mistakes that leaves least."""
    return min((_distance(outputs, compute(wrong)) for wrong in planted(port, suspects)), default=inf)


def _distance(outputs: Array, computed: Array, scale: float | None = None) -> float:
    """The error of the outputs; where both are not numbers they are equal."""
    missing = np.isnan(computed)
    if not np.array_equal(missing, np.isnan(outputs)):
        return inf
    with np.errstate(invalid="ignore"):
        return error(np.where(missing, 0.0, outputs), np.where(missing, 0.0, computed), scale)


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
    port: Port, groups: Iterable[tuple[Suspect, ...]], outputs: Array, before: float, tolerance: float
) -> list[Finding]:
    """Mistakes made together: judged by the few queries that differ most, and by all outputs if they fit these."""
    distance = np.nan_to_num(np.abs(outputs - compute(port)), nan=inf).max(axis=-1)  # batch query
    batch = int(np.argmax(distance.max(axis=-1)))
    rows = np.argsort(-distance[batch])[:ROWS]
    few, seen = port.only(batch, rows), outputs[batch : batch + 1, rows]
    scale = float(np.max(np.abs(outputs), where=np.isfinite(outputs), initial=0.0))
    findings = []
    for group in groups:
        after = min((_distance(seen, compute(wrong), scale) for wrong in planted(few, group)), default=inf)
        if after <= 2 * tolerance:
            after = _after(port, group, outputs)
        findings.append(Finding(group, before, after))
    return findings


def _rounded_alike(
    port: Port, groups: Iterable[tuple[Suspect, ...]], outputs: Array, most: float
) -> tuple[Suspect, ...] | None:
    """Mistakes, the last of them a precision, whose rounding is to be seen in the numbers.

    How products are rounded differs a little from device to device, so the numbers are not met exactly; but what a
    precision does to the same factors takes away most of the difference, and what is no rounding it only makes
    larger. The mistakes must leave no more than `most`; the precision that leaves least is taken.
    """
    nearest, found = ALIKE, None
    for *wrong, rounding in groups:
        for exact in planted(port, wrong):
            truth = compute(exact)
            if not 0 < _distance(outputs, truth) <= most:
                continue
            for coarse in rounding.plant(exact):
                share = _squares(outputs, compute(coarse)) / _squares(outputs, truth)
                if share <= nearest:
                    nearest, found = share, (*wrong, rounding)
    return found


def _squares(outputs: Array, computed: Array) -> float:
    """The sum of the squares of the difference; where both are not numbers they are equal."""
    if not np.array_equal(np.isfinite(outputs), np.isfinite(computed)):
        return inf
    finite = np.isfinite(computed)
    return float(np.sum((outputs[finite] - computed[finite]) ** 2))


def _mean_error(x: Array, reference: Array) -> float:
    """The root of the mean square of the difference, relative to how far the numbers of the reference spread."""
    spread = float(np.std(reference)) or float(np.max(np.abs(reference), initial=0.0)) or 1.0
    return float(np.sqrt(np.mean((x - reference) ** 2))) / spread


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
    left = [f for f in findings if f.is_rounding or _after(other, f.suspects, outputs) <= tolerance]
    return left or findings


def _outputs(candidate: Candidate, weights: Mapping[str, Any]) -> Array:
    """What the port gave, or gives; the first of several results."""
    found = candidate(weights) if callable(candidate) else candidate
    array = as_array("candidate", found[0] if isinstance(found, tuple) else found)
    if not is_floating(array):
        raise InputError(f"candidate must be floating-point, got {array.dtype}")
    return array
