"""Tables in Markdown, for every page that is printed."""

from collections.abc import Collection, Iterable


def table(
    headings: Iterable[str], rows: Iterable[Iterable[str]], *, figures: Collection[int] | None = ()
) -> str:
    """A table, its cells as they are.

    Args:
        headings: one a column.
        rows: of cells.
        figures: the columns that are aligned to the right; None for all but the first.
    """
    headings = tuple(headings)
    right = range(1, len(headings)) if figures is None else figures
    sides = ("--:" if column in right else "---" for column in range(len(headings)))
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, sides, *rows))
