"""Checks of a certificate: its own consistency, its files, and the figures of a repeated comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from attention_bridge.errors import CheckpointError
from attention_bridge.parity.certificates import hashes
from attention_bridge.parity.certificates.certificate import Certificate
from attention_bridge.parity.certificates.environment import changes, is_reproducible
from attention_bridge.parity.certificates.verdict import contradictions, within

# Fields of a run that depend on rounding, and so on versions and processors.
ROUNDED = ("errors", "results", "top1")
SHOWN = 3


class Finding(NamedTuple):
    """One statement about a certificate.

    Attributes:
        subject: the part that was checked, such as a file.
        ok: whether it holds.
        reason: the evidence, in words.
    """

    subject: str
    ok: bool
    reason: str

    def __str__(self) -> str:
        return f"{'holds' if self.ok else 'FAILS':<6} {self.subject}: {self.reason}"


def consistency(certificate: Certificate) -> list[Finding]:
    """Check the bounds and the verdict against the figures, and the verdict itself; nothing is run."""
    found = contradictions(certificate.content)
    given = certificate.content["verdict"]
    reason = "; ".join(found) or "each bound follows from its derivation, and the verdict from the figures"
    return [Finding("consistency", not found, reason), Finding("verdict", given["ok"], given["sentence"])]


def file_findings(certificate: Certificate, root: Path) -> Iterator[Finding]:
    """Compare the SHA-256 of every file of a conversion.

    Args:
        certificate: the certificate.
        root: directory that the paths are relative to.
    """
    for end in ("source", "target"):
        for name, expected in certificate.content["subject"][end]["files"].items():
            yield _file(f"{end} {name}", root / name, expected)


def _file(subject: str, path: Path, expected: str) -> Finding:
    if not path.is_file():
        return Finding(subject, False, f"{path} does not exist")
    try:
        found = hashes.of_file(path)
    except CheckpointError as error:
        return Finding(subject, False, str(error))
    if found != expected:
        return Finding(
            subject, False, f"the file has changed: its SHA-256 is {found[:12]}..., not {expected[:12]}..."
        )
    return Finding(subject, True, f"SHA-256 {found[:12]}...")


def compared(given: Certificate, again: Certificate) -> list[Finding]:
    """Compare a certificate with a repetition of its comparison.

    In an equal environment with both frameworks on the CPU every figure must be equal to the bit. In another one
    that holds for the exact parts: subject, hashes of weights and inputs, seeds, terms and derivation of each bound;
    and the errors, recorded and repeated, must be within the repeated bound.

    Args:
        given: the certificate.
        again: the repetition.
    """
    recorded, found = given.content, again.content
    parts = [_equal(name, recorded[name], found[name]) for name in ("subject", "weights", "faults")]
    if not recorded["runs"] and not found["runs"]:
        return parts
    same = is_reproducible(recorded["environment"], found["environment"])
    if same:
        return [*parts, _equal("figures", recorded["runs"], found["runs"])]
    exact = _equal("exact figures", *([_exact(run) for run in each["runs"]] for each in (recorded, found)))
    return [*parts, exact, _bounded(given, again)] if exact.ok else [*parts, exact]


def _equal(name: str, recorded: Any, found: Any) -> Finding:
    """Whether two parts of certificates are equal, to the bit of every number."""
    unequal = list(_differing(recorded, found, name))
    if not unequal:
        return Finding(name, True, "equal to the repeated comparison, to the bit")
    more = f" and {len(unequal) - SHOWN} more" if len(unequal) > SHOWN else ""
    return Finding(name, False, f"not equal to the repeated comparison: {'; '.join(unequal[:SHOWN])}{more}")


def _differing(recorded: Any, found: Any, where: str) -> Iterator[str]:
    if isinstance(recorded, Mapping) and isinstance(found, Mapping):
        for name in {**recorded, **found}:
            yield from _differing(recorded.get(name), found.get(name), f"{where}.{name}")
    elif (
        isinstance(recorded, list | tuple) and isinstance(found, list | tuple) and len(recorded) == len(found)
    ):
        for number, pair in enumerate(zip(recorded, found, strict=True)):
            yield from _differing(*pair, f"{where}[{number}]")
    elif recorded != found or type(recorded) is not type(found):
        yield f"{where} is {recorded!r:.50}, repeated {found!r:.50}"


def _exact(run: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that do not depend on rounding; neither does a bound that follows from sums."""
    bound = run["bound"]
    if bound["reference_errors"] is not None:
        bound = {name: bound[name] for name in ("derivation", "unit_roundoff", "terms")}
    kept = {name: x for name, x in run.items() if name not in (*ROUNDED, "bound", "ok")}
    return {**kept, "bound": bound, "errors": {kind: _counts(x) for kind, x in run["errors"].items()}}


def _counts(errors: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if errors is None else {name: errors[name] for name in ("tensors", "elements")}


def _bounded(given: Certificate, again: Certificate) -> Finding:
    """Whether the recorded and the repeated errors are within the repeated bounds."""
    where = changes(given.content["environment"], again.content["environment"]) or "not on the CPU"
    unequal = [
        run["name"]
        for run, repeated in zip(given.content["runs"], again.content["runs"], strict=True)
        if within(run) != within(repeated) or within({**run, "bound": repeated["bound"]}) != within(repeated)
    ]
    reason = f"not equal to the repeated comparison: {', '.join(unequal[:SHOWN])}"
    said = "recorded and repeated errors are within the repeated bounds"
    return Finding("figures", not unequal, f"{reason if unequal else said}; another environment: {where}")
