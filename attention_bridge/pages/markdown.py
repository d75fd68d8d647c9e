"""Markdown tables for the generated pages."""

from collections.abc import Collection, Iterable


def table(
    headings: Iterable[str], rows: Iterable[Iterable[str]], *, figures: Collection[int] | None = ()
) -> str:
    """Format a Markdown table; the cells are not escaped.

    Args:
        headings: headings, one per column.
        rows: rows of cells.
        figures: indices of the right-aligned columns; None for all but the first.
    """
    headings = tuple(headings)
    right = range(1, len(headings)) if figures is None else figures
    sides = ("--:" if column in right else "---" for column in range(len(headings)))
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, sides, *rows))
