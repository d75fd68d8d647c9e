"""Style of the pictures: colours, sizes and labels. Colour maps are perceptually uniform and light at zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WEIGHTS_COLOURS = "magma_r"
SIGNED_COLOURS = "RdBu_r"  # white is zero
HIDDEN, SEEN = "#ececec", "#6a51a3"
INK = "#333333"
LABEL_SIZE = 9.5  # points
LABEL_INCHES = 0.16  # height of a line of labels
INCHES_PER_TOKEN = 0.27
LARGEST, SMALLEST = 9.0, 2.4  # bounds of the side of a matrix in inches
FINEST_GRID = 0.1  # smallest cell, in inches, with grid lines; they would cover smaller cells
BAR_INCHES = 0.3
LONGEST_LABEL = 18  # characters


def cell_inches(*lengths: int) -> float:
    """Side of a cell in inches, for a matrix with the given numbers of rows and columns."""
    return min(INCHES_PER_TOKEN, LARGEST / max(lengths))


def side(length: int, cell: float) -> float:
    """Side of a matrix with `length` cells, in inches."""
    return max(SMALLEST, cell * length)


def sheet(width: float, height: float, *, title: str, subtitle: str = "") -> Figure:
    """Make an empty figure, sized in inches, with a layout engine that prevents overlaps."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    if title:
        figure.suptitle(title, fontsize=14, fontweight="bold", color=INK, parse_math=False)
    if subtitle:
        figure.supxlabel(subtitle, fontsize=9.5, color=INK, parse_math=False)
    return figure


def scale(array: np.ndarray, top: float | None = None) -> dict[str, Any]:
    """Colour map and limits for weights: 0 to `top` (None for the largest), or symmetric if some are negative."""
    limit = float(np.abs(array).max() if top is None else top) or 1.0
    if array.min() < 0:
        return {"cmap": SIGNED_COLOURS, "vmin": -limit, "vmax": limit}
    return {"cmap": WEIGHTS_COLOURS, "vmin": 0.0, "vmax": limit}


def heatmap(
    axes: Axes,
    array: np.ndarray,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    *,
    title: str,
    cell: float = INCHES_PER_TOKEN,
    **colours: Any,
) -> Any:
    """Draw one matrix with labels.

    Args:
        axes: axes to draw in.
        array: matrix `(query, key)`.
        query_tokens: labels of the rows, one per query.
        key_tokens: labels of the columns, one per key.
        title: title above the matrix.
        cell: side of a cell in inches, which limits the number of labels.
        colours: `cmap`, `vmin` and `vmax` of `imshow`.

    Returns:
        The image, for a colour bar.
    """
    image = axes.imshow(array, aspect="equal", interpolation="nearest", **colours)
    name_axes(axes, query_tokens, key_tokens, cell=cell, title=title)
    if cell >= FINEST_GRID:
        axes.set_xticks(np.arange(len(key_tokens) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(query_tokens) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.2 if cell > 0.2 else 0.6)
    axes.tick_params(which="both", length=0, colors=INK)
    return image


def name_axes(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    cell: float,
    title: str = "",
    shift: float = 0.0,
) -> None:
    """Label rows and columns, as many as there is room for; `shift` is added to the tick positions."""
    axes.set_title(title, fontsize=12, color=INK, parse_math=False)
    short = all(len(label) <= 2 for label in columns)
    _name(axes.xaxis, columns, cell, shift, rotation=0 if short and cell >= 1.5 * LABEL_INCHES else 90)
    _name(axes.yaxis, rows, cell, shift, rotation=0)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)


def _name(axis: Axis, tokens: Sequence[str], cell: float, shift: float, *, rotation: int) -> None:
    step = math.ceil(LABEL_INCHES / cell)
    places = range(0, len(tokens), step)
    axis.set_ticks(
        [place + shift for place in places],
        [shorten(tokens[i]) for i in places],
        rotation=rotation,
        fontsize=LABEL_SIZE,
        parse_math=False,
    )


def shorten(token: str) -> str:
    """Shorten a token to one line of at most 18 characters; a blank is shown as ␣."""
    text = token.replace("\n", "⏎").replace("\t", "⇥")
    text = text if text.strip(" ") else "␣" * len(text)
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def bar(figure: Figure, image: Any, axes: Any, label: str = "attention weight") -> Any:
    """Add one colour bar beside `axes`."""
    slim = max(20.0, figure.get_figheight() / BAR_INCHES)
    drawn = figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02, aspect=slim)
    drawn.set_label(label, color=INK)
    drawn.ax.tick_params(colors=INK, labelsize=9)
    drawn.outline.set_visible(False)
    return drawn
