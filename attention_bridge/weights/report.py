"""What a conversion did, tensor by tensor, and what stands in its way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from attention_bridge.errors import ConversionError, Fault, cut, printable

LONGEST_CELL = 85  # characters; so the four cells of a fault fit on a line


class Match(NamedTuple):
    """A target tensor, the source tensors that it is made of, and how their axes moved."""

    target: str
    given: tuple[str, ...]
    patterns: tuple[str, ...]


class Note(NamedTuple):
    """A tensor that was not converted but made, or left behind, and why."""

    name: str
    reason: str


@dataclass
class Report:
    """The fate of every tensor.

    Attributes:
        source: name of the layout converted from.
        target: name of the layout converted to.
        matched: target tensors that are filled from source tensors.
        synthesised: tensors that the source lacks and that its layout or the target's knows.
        ignored: source tensors that were left behind, knowingly.
        faults: what stands in the way; with any of these nothing is written.
    """

    source: str
    target: str
    matched: list[Match] = field(default_factory=list)
    synthesised: list[Note] = field(default_factory=list)
    ignored: list[Note] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def raise_faults(self) -> None:
        """Raise all faults together, if there are any.

        Raises:
            ConversionError: a sentence with the counts, then a table of the faults.
        """
        if self.faults:
            counts = Counter(fault.fault for fault in self.faults)
            summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            sentence = cut(f"Cannot convert {self.source} to {self.target}, nothing was written: {summary}.")
            rows = [[cut(printable(cell), LONGEST_CELL) for cell in fault] for fault in self.faults]
            raise ConversionError(f"{sentence}\n\n{table(Fault._fields, rows)}", self.faults)

    def __str__(self) -> str:
        kinds = ("matched", "synthesised", "ignored", "faults")
        counts = ", ".join(f"{len(getattr(self, kind))} {kind}" for kind in kinds)
        parts = [f"{self.source} to {self.target}: {counts}."]
        if self.matched:
            rows = [(m.target, ", ".join(m.given), ", then ".join(m.patterns)) for m in self.matched]
            parts.append(table(("matched", "from", "axes"), rows))
        if self.synthesised:
            parts.append(table(("synthesised", "reason"), self.synthesised))
        if self.ignored:
            parts.append(table(("ignored", "reason"), self.ignored))
        if self.faults:
            parts.append(table(Fault._fields, self.faults))
        return "\n\n".join(parts)


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A plain text table with aligned columns."""
    lines = [tuple(header), *(tuple(cell or "-" for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (map(str.ljust, line, widths) for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)
