"""What the doctor found, and how it says so."""

from __future__ import annotations

from dataclasses import dataclass

from attention_bridge.doctor.suspects import ROUNDING, Suspect

NAMED = 5  # explanations that a sentence holds


@dataclass(frozen=True)
class Finding:
    """What planting one mistake, or two, makes of the doctor's own computation.

    Attributes:
        suspects: the mistakes.
        before: error of the candidate against the reference, max|candidate - reference| / max|reference|.
        after: error of the candidate against the doctor's computation with the mistakes.
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
        """Whether one of them is a coarse precision, which meets the numbers nearly, not exactly as a mistake does."""
        return any(suspect in ROUNDING for suspect in self.suspects)

    @property
    def sign(self) -> str:
        """What the port does."""
        return " and ".join(suspect.sign for suspect in self.suspects)

    @property
    def cure(self) -> str:
        """What to do."""
        return ", and ".join(suspect.cure for suspect in self.suspects)


@dataclass(frozen=True)
class Diagnosis:
    """The doctor's answer.

    Attributes:
        status: `healthy`; `diagnosed`; `unexplained`; or `other setting`: in the setting that was given, the
            doctor does not compute the reference, and so looked for nothing.
        error: of the candidate against the reference; that of the doctor against it if `other setting`.
        tolerance: the largest error that rounding explains.
        explanations: the mistakes, or pairs of them, that make the difference vanish, the best first. If there
            are several, these outputs do not tell them apart.
        ranking: the nearest of what was tried, alone and in pairs if it came to these; the one that leaves least
            comes first.
        stopped: what was tried before the time was up; empty if everything was.
        aim: what an error as small as that of rounding points to, where rounding would point nowhere; else empty.
        coarse: the dtype of 16 bits whose rounding alone makes errors as large in this layer, so that it hides
            mistakes; else empty.
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
                "the setting, weights or inputs given are not those of the reference: the doctor's own computation "
                f"does not give it ({figures}), so nothing was diagnosed"
            )
        if self.coarse:
            return (
                f"rounding to {self.coarse} alone makes errors as large in this layer, which is too large to tell "
                f"a mistake: run both in float32 ({figures})"
            )
        if self.aim:
            return (
                f"the error is as small as that of rounding, but is none: most of it is {self.aim}, "
                f"which no mistake the doctor knows explains ({figures})"
            )
        if self.status == "unexplained":
            nearest = [f"{finding.name} ({finding.after:.1e})" for finding in self.ranking[:3]]
            known = "no mistake the doctor knows, nor any two of them, explains the difference"
            said = (
                f"nothing that was tried explains the difference; {self.stopped}" if self.stopped else known
            )
            return f"{said} ({figures}); nearest: {', '.join(nearest) or 'none lessens it'}"
        named, more = self.explanations[:NAMED], len(self.explanations) - NAMED
        signs = ", or ".join(
            [*(finding.sign for finding in named), *([f"one of {more} more"] if more > 0 else [])]
        )
        figures = f"error {named[0].before:.1e} before, {named[0].after:.1e} after"
        cures = "; or ".join(finding.cure for finding in named)
        return f"the port {signs} ({figures}); cure: {cures}" + (f" ({self.stopped})" if self.stopped else "")
