"""Posters: many matrices on one sheet, in named groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.plots import style
from attention_bridge.plots.arrays import labels, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sizes in inches.
SIDE = 1.6
ACROSS, DOWN = 2.14, 2.22  # distances between neighbouring panels
NAMES = 0.42  # space for the title above a panel
HEADER = 0.75  # space for the name above a group
MARGIN = 0.6
LEAD = 3.3  # side of the labelled matrix at the top
LEAD_LABELS = 0.75
TEXT = 8.2  # longest line of text; the legend is beside it if there is room, else below
LEGEND = 7.5
LEGEND_LINE = 0.34
MOST_COLUMNS, LEAST_COLUMNS = 12, 7
FAINT = "#777777"
FRAME = "#c4c4c4"
STRONGEST = 98  # percentile of the magnitudes at the end of a panel's colour scale


@dataclass(frozen=True)
class Kind:
    """Kind of matrix in a panel, shown by its colours.

    Attributes:
        colours: colour map from zero to the panel's largest values.
        signed: colour map if some values are negative.
        says: text in the legend.
    """

    colours: str
    signed: str
    says: str


KINDS = {
    "mask": Kind("", "", "masks: dark where the query attends to the key"),
    "weights": Kind(style.WEIGHTS_COLOURS, style.SIGNED_COLOURS, "attention weights"),
    "effective": Kind(
        "YlGnBu", "BrBG", "effective weights from values to outputs, of mechanisms that compute none"
    ),
    "scores": Kind(style.SIGNED_COLOURS, style.SIGNED_COLOURS, "scores and similarities; white is 0"),
}


@dataclass(frozen=True)
class Panel:
    """One matrix of a poster.

    Attributes:
        title: title above the panel.
        matrix: matrix `(query, key)`, from any framework; boolean for a mask.
        note: smaller line below the title.
        kind: kind of matrix, one of `KINDS`.
    """

    title: str
    matrix: Any
    note: str = ""
    kind: str = "weights"


def poster(
    groups: Mapping[str, Sequence[Panel]],
    *,
    title: str,
    text: str = "",
    lead: Panel | None = None,
    tokens: Sequence[str] | None = None,
) -> Figure:
    """Draw many matrices in groups, each with its own colour scale; weights that are exactly zero are grey.

    Args:
        groups: lists of panels by the name of the group; small groups share a row.
        title: title of the poster.
        text: lines of text below the title.
        lead: matrix drawn large at the top, with `tokens` at its rows and columns; None for none.
        tokens: labels of the lead; None for numbers from 0.

    Returns:
        The figure, for `save`; its axes are the lead if there is one, the legend's swatches and the panels, in order.

    Raises:
        TypeError: a matrix is not an array.
        InputError: there is no panel, a matrix does not have two axes, or a kind is unknown.
    """
    from matplotlib.figure import Figure

    everything = [panel for members in groups.values() for panel in members]
    if not everything:
        raise InputError("groups must hold at least one panel, got none")
    arrays = {id(panel): _matrix(panel) for panel in everything}
    places, columns, rows = _places({name: len(members) for name, members in groups.items() if members})
    left = MARGIN + (0 if lead is None else LEAD_LABELS + LEAD + 0.6)
    width = 2 * MARGIN + columns * ACROSS - (ACROSS - SIDE)
    legend = _legend_place(left, width, text)
    top = max(
        legend[1] + LEGEND_LINE * (1 + len(KINDS)), 0.0 if lead is None else LEAD + LEAD_LABELS + MARGIN + 0.5
    )
    starts = np.cumsum([top, *(HEADER + lines * DOWN for lines in rows)])
    figure = Figure(figsize=(width, float(starts[-1]) + MARGIN / 2))
    if lead is not None:
        _lead(figure, lead, tokens)
    _text(figure, left, MARGIN, title, fontsize=26, fontweight="bold")
    _text(figure, left, MARGIN + 0.7, text, fontsize=11.5, linespacing=1.5)
    _legend(figure, *legend, {kind: [arrays[id(p)] for p in everything if p.kind == kind] for kind in KINDS})
    for (name, members), (shelf, column, span) in zip(
        ((name, members) for name, members in groups.items() if members), places, strict=True
    ):
        x, y = MARGIN + column * ACROSS, float(starts[shelf])
        _group_name(figure, name, x, y, span * ACROSS - (ACROSS - SIDE))
        for i, panel in enumerate(members):
            line, place = divmod(i, span)
            axes = _axes(figure, x + place * ACROSS, y + HEADER + line * DOWN + NAMES, SIDE, SIDE)
            _panel(axes, panel, arrays[id(panel)])
    return figure


def _places(counts: Mapping[str, int]) -> tuple[list[tuple[int, int, int]], int, list[int]]:
    """Lay out the groups on shelves; a group that fits in one line goes to the first shelf with room.

    Returns:
        Shelf, first column and width in columns of each group; the number of columns; the lines of each shelf.
    """
    columns = max(LEAST_COLUMNS, min(MOST_COLUMNS, sum(counts.values())))
    free: list[int] = []
    lines: list[int] = []
    places = []
    for count in counts.values():
        span, height = min(count, columns), -(-count // columns)
        shelf = next(
            (i for i, room in enumerate(free) if room >= span and height == 1 == lines[i]), len(free)
        )
        if shelf == len(free):
            free.append(columns)
            lines.append(height)
        places.append((shelf, columns - free[shelf], span))
        free[shelf] -= span
    used = max(column + span for _, column, span in places)
    return places, max(used, LEAST_COLUMNS), lines


def _matrix(panel: Panel) -> np.ndarray:
    if panel.kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {panel.kind!r}")
    array = np.asarray(panel.matrix) if panel.kind == "mask" else numbers(panel.title, panel.matrix)
    if array.ndim != 2 or (panel.kind == "mask" and array.dtype != bool):
        expected = "a boolean (query, key)" if panel.kind == "mask" else "(query, key)"
        raise InputError(f"{panel.title} must be {expected}, got {array.shape} of {array.dtype}")
    return array


def _axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Add axes at a position and size in inches, measured from the top left."""
    across, down = figure.get_size_inches()
    axes = figure.add_axes((x / across, 1 - (y + height) / down, width / across, height / down))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color=FRAME, linewidth=0.7)
    return axes


def _text(figure: Figure, x: float, y: float, text: str, **options: Any) -> None:
    across, down = figure.get_size_inches()
    figure.text(
        x / across, 1 - y / down, text, **{"va": "top", "color": style.INK, "parse_math": False, **options}
    )


def _colours(kind: str, array: np.ndarray) -> dict[str, Any]:
    if kind == "mask":
        from matplotlib.colors import ListedColormap

        return {"cmap": ListedColormap([style.HIDDEN, style.SEEN]), "vmin": 0, "vmax": 1}
    sizes = np.abs(array[array != 0])
    limit = float(np.percentile(sizes, STRONGEST)) if sizes.size else 1.0
    signed = kind == "scores" or bool((array < 0).any())
    cmap = KINDS[kind].signed if signed else KINDS[kind].colours
    return {"cmap": cmap, "vmin": -limit if signed else 0.0, "vmax": limit}


def _panel(axes: Axes, panel: Panel, array: np.ndarray) -> None:
    """Draw one panel; the matrix fills the square for any shape."""
    axes.set_facecolor(style.HIDDEN)
    shown = array if panel.kind in ("mask", "scores") else np.ma.masked_equal(array, 0)
    axes.imshow(shown, aspect="auto", interpolation="nearest", **_colours(panel.kind, array))
    axes.set_title(panel.title, fontsize=8, fontweight="bold", color=style.INK, pad=14, parse_math=False)
    axes.text(
        0.5,
        1.03,
        panel.note,
        transform=axes.transAxes,
        ha="center",
        va="bottom",
        fontsize=7,
        color=FAINT,
        parse_math=False,
    )


def _group_name(figure: Figure, name: str, x: float, y: float, width: float) -> None:
    from matplotlib.lines import Line2D

    _text(figure, x, y + 0.24, name, fontsize=13, fontweight="bold", color=style.SEEN)
    across, down = figure.get_size_inches()
    height = 1 - (y + 0.54) / down
    figure.add_artist(Line2D([x / across, (x + width) / across], [height] * 2, color=style.SEEN, linewidth=1))


def _lead(figure: Figure, lead: Panel, tokens: Sequence[str] | None) -> None:
    array = numbers(lead.title, lead.matrix)
    rows, columns = labels(tokens, None, (array.shape[0], array.shape[1]))
    axes = _axes(figure, MARGIN + LEAD_LABELS, MARGIN + 0.3, LEAD, LEAD)
    cell = LEAD / max(array.shape)
    axes.imshow(array, aspect="auto", interpolation="nearest", **_colours(lead.kind, array))
    for axis, names, turn in ((axes.xaxis, columns, 90), (axes.yaxis, rows, 0)):
        axis.set_ticks(range(len(names)), names, rotation=turn, fontsize=min(8.0, 60 * cell))
    axes.tick_params(length=0, colors=style.INK, pad=2)
    axes.set_title(lead.title, fontsize=9.5, fontweight="bold", color=style.INK, parse_math=False)


def _legend_place(left: float, width: float, text: str) -> tuple[float, float]:
    """Position of the legend in inches from the left and from the top."""
    if left + TEXT + LEGEND <= width:
        return left + TEXT, MARGIN + 0.78
    return left, MARGIN + 0.9 + 0.24 * (text.count("\n") + 1)


def _legend(figure: Figure, x: float, y: float, arrays: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Draw one colour swatch for each colour map of each kind present."""
    ramps_of = {kind: _ramps(kind, members) for kind, members in arrays.items()}
    words = x + 1.1 * max(map(len, ramps_of.values())) + 0.1
    for kind, ramps in ramps_of.items():
        for i, ramp in enumerate(ramps):
            swatch = _axes(figure, x + 1.1 * i, y, 1.0, 0.18)
            swatch.imshow(ramp, aspect="auto", **_colours(kind, ramp))
        if ramps:
            says = KINDS[kind].says + (
                "; the second colour map if some are negative" if len(ramps) > 1 else ""
            )
            _text(figure, words, y + 0.09, says, fontsize=10.5, va="center")
            y += LEGEND_LINE


def _ramps(kind: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Values from one end of each colour map of a kind to the other, `(1, many)`."""
    if kind == "mask":
        return [np.array([[False, True]])] if arrays else []
    signs = {kind == "scores" or bool((array < 0).any()) for array in arrays}
    return [np.linspace(-1 if signed else 0.01, 1, 64)[None] for signed in sorted(signs)]
