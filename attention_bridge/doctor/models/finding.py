"""Findings about whole models, and the verdict in one sentence."""

from __future__ import annotations

from dataclasses import dataclass

NAMED = 5  # findings in a verdict


@dataclass(frozen=True)
class ModelFinding:
    """One mistake of a port.

    Attributes:
        place: path of the submodule in the reference; `the model` for the whole.
        mistake: the mistake, as the end of a sentence that begins "the port ..."; empty if it is unexplained.
        cure: the fix, in the imperative; empty if unknown.
        error: error of the submodule on equal inputs, relative to its largest output; of a tensor, relative to its
            largest element.
        also: paths of the other submodules with the same mistake.
        copied: the tensor of the reference whose values a tensor of the port holds, and the name of the latter; empty
            for other mistakes.
        rounded: dtype that weights were rounded to; empty for other mistakes.
    """

    place: str
    mistake: str
    cure: str = ""
    error: float = 0.0
    also: tuple[str, ...] = ()
    copied: tuple[str, str] = ("", "")
    rounded: str = ""

    @property
    def is_explained(self) -> bool:
        """Whether the mistake has a name."""
        return bool(self.mistake)

    def __str__(self) -> str:
        if not self.mistake:
            return (
                f"in `{self.place}` the port computes something else on equal inputs, by {self.error:.1e}, and no "
                "mistake known to the doctor explains it"
            )
        more = _more(self.also)
        return f"in `{self.place}`{more} the port {self.mistake}"


def _more(places: tuple[str, ...]) -> str:
    return f" and {len(places)} more place{'s' if len(places) > 1 else ''}" if places else ""


@dataclass(frozen=True)
class ModelDiagnosis:
    """Result of a diagnosis of two whole models.

    Attributes:
        status: `healthy`; `diagnosed` if all findings have a name; `unexplained` otherwise.
        error: error of the port's outputs against the reference's, max|port - reference| / max|reference|.
        tolerance: largest error that rounding explains.
        findings: the mistakes, in the order of the computation.
        left: error of the outputs once the port has the reference's weights.
    """

    status: str
    error: float
    tolerance: float
    findings: tuple[ModelFinding, ...] = ()
    left: float = 0.0

    @property
    def verdict(self) -> str:
        """One sentence that names the first wrong submodule and its mistake, then the others."""
        figures = f"error {self.error:.1e}, where rounding explains {self.tolerance:.1e}"
        if self.status == "healthy":
            return f"the port is healthy: it computes the reference ({figures})"
        named, more = self.findings[:NAMED], len(self.findings) - NAMED
        said = "; ".join(map(str, named)) + (f"; and {more} more" if more > 0 else "")
        cures = "; ".join(dict.fromkeys(each.cure for each in named if each.cure))
        if not self.findings:
            return (
                f"no submodule differs on equal inputs and no weight differs, but the outputs do ({figures})"
            )
        return f"{said} ({figures})" + (f"; cure: {cures}" if cures else "")
