"""Report of a conversion: the result for each tensor, and the faults that prevent the conversion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from attention_bridge.errors import ConversionError, Fault, cut, printable

LONGEST_CELL = 85  # characters; so the four cells of a fault fit on a line


class Match(NamedTuple):
    """A target tensor, the names of its source tensors, and the einops patterns that moved their axes."""

    target: str
    given: tuple[str, ...]
    patterns: tuple[str, ...]


class Note(NamedTuple):
    """A tensor that was synthesised or ignored instead of converted, and the reason."""

    name: str
    reason: str


@dataclass
class Report:
    """The result of a conversion for every tensor.

    Attributes:
        source: name of the layout converted from.
        target: name of the layout converted to.
        matched: target tensors that are filled from source tensors.
        synthesised: tensors that the source lacks and whose values a layout defines.
        ignored: source tensors that a layout declares as not to be converted.
        faults: errors; if there are any, nothing is written.
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
            ConversionError: there are faults; the message gives their counts, then a table.
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
