"""A diagnosis as a table for the terminal or as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from attention_bridge.doctor.diagnosis import Diagnosis, Finding

ROWS = 8
STYLES = {"healthy": "bold green", "diagnosed": "bold yellow"}


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print the suspects, explanations first, and the verdict."""
    if diagnosis.ranking:
        console.print(_table(diagnosis))
        console.print()
    style = STYLES.get(diagnosis.status, "bold red")
    console.print(Text.assemble((f"{diagnosis.status.upper()}: ", style), diagnosis.verdict), soft_wrap=True)


def as_json(diagnosis: Diagnosis) -> str:
    """The diagnosis as one JSON object; an error that is not finite is null."""
    return json.dumps(
        {
            "status": diagnosis.status,
            "verdict": diagnosis.verdict,
            "stopped": diagnosis.stopped,
            "error": _number(diagnosis.error),
            "tolerance": diagnosis.tolerance,
            "explanations": [_row(finding) for finding in diagnosis.explanations],
            "ranking": [_row(finding) for finding in diagnosis.ranking],
        }
    )


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "suspects": [suspect.name for suspect in finding.suspects],
        "before": _number(finding.before),
        "after": _number(finding.after),
        "cures": [suspect.cure for suspect in finding.suspects],
    }


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _table(diagnosis: Diagnosis) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("suspect", overflow="fold")
    for heading in ("before", "after", ""):
        table.add_column(heading, no_wrap=True)
    explained = diagnosis.explanations
    rest = [finding for finding in diagnosis.ranking if finding not in explained]
    for finding in [*explained, *rest][: max(ROWS, len(explained))]:
        mark = Text("explains", style="green") if finding in explained else Text("")
        table.add_row(finding.name, f"{finding.before:.1e}", f"{finding.after:.1e}", mark)
    return table
