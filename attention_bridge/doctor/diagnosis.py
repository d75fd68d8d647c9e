"""Findings of the doctor, and the verdict in one sentence."""

from __future__ import annotations

from dataclasses import dataclass

from attention_bridge.doctor.suspects import ROUNDING, Suspect

NAMED = 5  # explanations named in a verdict


@dataclass(frozen=True)
class Finding:
    """One mistake or a pair of them, and the error before and after planting it.

    Attributes:
        suspects: the mistakes.
        before: error of the candidate against the reference, max|candidate - reference| / max|reference|.
        after: error of the candidate against the doctor's outputs with the mistakes planted.
    """

    suspects: tuple[Suspect, ...]
    before: float
    after: float

    @property
    def name(self) -> str:
        """The names of the mistakes."""
        return " + ".join(suspect.name for suspect in self.suspects)

    @property
    def is_rounding(self) -> bool:
        """Whether one of the mistakes is a coarse precision, which explains outputs approximately, not exactly."""
        return any(suspect in ROUNDING for suspect in self.suspects)

    @property
    def sign(self) -> str:
        """Description of the faulty behaviour, as the end of "the port ..."."""
        return " and ".join(suspect.sign for suspect in self.suspects)

    @property
    def cure(self) -> str:
        """Instructions that fix the port."""
        return ", and ".join(suspect.cure for suspect in self.suspects)


@dataclass(frozen=True)
class Diagnosis:
    """Result of a diagnosis.

    Attributes:
        status: `healthy`; `diagnosed`; `unexplained`; or `other setting` if the doctor's outputs with the given
            setting do not equal the reference, so that no search was made.
        error: error of the candidate against the reference; error of the doctor's outputs if `other setting`.
        tolerance: largest error that rounding explains.
        explanations: mistakes, or pairs of them, that make the difference vanish, best first. If there are several,
            these outputs do not distinguish them.
        ranking: the nearest of the mistakes and pairs tried; the one that leaves the smallest error is first.
        stopped: the mistakes tried before the time limit, in words; empty if all were tried.
        aim: a factor that explains most of an error as small as rounding, in words; empty if there is none.
        coarse: 16-bit dtype whose rounding alone makes errors as large in this layer, so that mistakes are hidden;
            empty otherwise.
    """

    status: str
    error: float
    tolerance: float
    explanations: tuple[Finding, ...] = ()
    ranking: tuple[Finding, ...] = ()
    stopped: str = ""
    aim: str = ""
    coarse: str = ""

    @property
    def verdict(self) -> str:
        """One sentence that names the mistake and its cure."""
        figures = f"error {self.error:.1e}, where rounding explains {self.tolerance:.1e}"
        if self.status == "healthy":
            return f"the port is healthy: it computes the reference ({figures})"
        if self.status == "other setting":
            return (
                "the given setting, weights or inputs do not match the reference: the doctor's own computation "
                f"does not reproduce it ({figures}), so nothing was diagnosed"
            )
        if self.coarse:
            return (
                f"rounding to {self.coarse} alone makes errors as large in this layer, too large to detect a "
                f"mistake: run both in float32 ({figures})"
            )
        if self.aim:
            return (
                f"the error is as small as a rounding error, but is not one: most of it is {self.aim}, "
                f"which no mistake known to the doctor explains ({figures})"
            )
        if self.status == "unexplained":
            nearest = [f"{finding.name} ({finding.after:.1e})" for finding in self.ranking[:3]]
            known = "no mistake known to the doctor, nor any pair of them, explains the difference"
            said = f"no mistake tried explains the difference; {self.stopped}" if self.stopped else known
            return f"{said} ({figures}); nearest: {', '.join(nearest) or 'none reduces it'}"
        named, more = self.explanations[:NAMED], len(self.explanations) - NAMED
        signs = ", or ".join(
            [*(finding.sign for finding in named), *([f"one of {more} more"] if more > 0 else [])]
        )
        figures = f"error {named[0].before:.1e} before, {named[0].after:.1e} after"
        cures = "; or ".join(finding.cure for finding in named)
        return f"the port {signs} ({figures}); cure: {cures}" + (f" ({self.stopped})" if self.stopped else "")
