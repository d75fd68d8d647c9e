"""The catalogue and its proofs as tables: for the terminal, as JSON rows, and as Markdown."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from attention_bridge.catalogue import Mechanism

if TYPE_CHECKING:  # proofs need both frameworks, the catalogue needs neither
    from attention_bridge.proof import Verdict


def mechanism_rows(mechanisms: Sequence[Mechanism]) -> list[dict[str, Any]]:
    """One object a mechanism."""
    return [
        {
            "name": mechanism.name,
            "family": mechanism.family,
            "paper": mechanism.paper.authors,
            "year": mechanism.paper.year,
            "address": mechanism.paper.address,
            "equation": mechanism.equation,
            "files": [f"torch_attention/{mechanism.file}", f"jax_attention/{mechanism.file}"],
        }
        for mechanism in mechanisms
    ]


def mechanism_table(mechanisms: Sequence[Mechanism]) -> Table:
    """The catalogue for the terminal."""
    table = Table("name", "family", "paper", "file in both mirrors", title=f"{len(mechanisms)} mechanisms")
    for m in mechanisms:
        table.add_row(m.name, m.family, f"{m.paper.authors} {m.paper.year}", m.file)
    return table


def verdict_rows(verdicts: Sequence["Verdict"]) -> list[dict[str, Any]]:
    """One object a proof."""
    return [asdict(verdict) for verdict in verdicts]


HEADINGS = (
    "mechanism",
    "dtype",
    "torch",
    "jax",
    "torch-jax",
    "tolerance",
    "gradients",
    "tolerance",
    "verdict",
)


def verdict_table(verdicts: Sequence["Verdict"]) -> Table:
    """The proofs for the terminal."""
    table = Table(title="error against the float64 oracle, worst of all masks")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if number < 2 else "right")
    for verdict in verdicts:
        *cells, ok = _cells(verdict)
        table.add_row(*cells, Text(ok, style="green" if verdict.ok else "bold red"))
    return table


def verdict_markdown(verdicts: Sequence["Verdict"]) -> str:
    """The proofs as a Markdown table."""
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *(_cells(verdict) for verdict in verdicts)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(verdict: "Verdict") -> tuple[str, ...]:
    gradient = max(verdict.torch_gradient_err, verdict.jax_gradient_err)
    figures = (
        verdict.torch_err,
        verdict.jax_err,
        verdict.diff,
        verdict.tolerance,
        gradient,
        verdict.gradient_tolerance,
    )
    return (
        verdict.name,
        verdict.dtype,
        *(f"{figure:.1e}" for figure in figures),
        f"ok, {verdict.cases} cases" if verdict.ok else "DIFFERS",
    )
