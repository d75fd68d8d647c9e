"""Masks as matrices of two colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.plots import style
from attention_bridge.plots.arrays import labels
from attention_bridge.weights.leaves import to_numpy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SHAPES = 20_000  # more cells than these are drawn as points in a picture of lines


def draw_mask(
    mask: Any,
    query_tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draw a mask: a dark cell in row i and column j where query i sees key j.

    Args:
        mask: boolean, `(query, key)`, `(batch, query, key)` or `(batch|1, heads|1, query|1, key)`, from any
            framework; each matrix is a panel, in a row of the figure for each element of the batch.
        query_tokens: one label a row; numbers from 0 if None.
        key_tokens: one label a column; by default those of the rows if there are as many, else numbers.
        title: what the picture shows.

    Returns:
        A figure to `save`.

    Raises:
        TypeError: the mask is no boolean array.
        InputError: it has not two to four axes, or the labels do not fit.
    """
    array = to_numpy("mask", mask)
    if array.dtype != bool:
        raise TypeError(f"mask must be boolean (True: the query attends to the key), got {array.dtype}")
    if array.ndim not in (2, 3, 4) or not array.size:
        raise InputError(
            "mask must have shape (query, key), (batch, query, key) or (batch|1, heads|1, query|1, key), "
            f"got {array.shape}"
        )
    panels = {2: array[None, None], 3: array[:, None], 4: array}[array.ndim]  # batch heads query key
    batch, heads, query_len, key_len = panels.shape
    rows, columns = labels(query_tokens, key_tokens, (query_len, key_len), of="the mask")

    cell = style.cell_inches(query_len, key_len)
    width, height = (max(1.6, cell * length) + 1.0 for length in (key_len, query_len))
    figure = style.sheet(heads * width, batch * height + 0.7, title=title)
    for b, row_of_axes in enumerate(figure.subplots(batch, heads, squeeze=False)):
        for h, axes in enumerate(row_of_axes):
            of = [f"batch {b}"] * (batch > 1) + [f"head {h}"] * (heads > 1)
            _cells(axes, panels[b, h], cell)
            style.name_axes(axes, rows, columns, cell=cell, title=", ".join(of), shift=0.5)
    _legend(figure)
    return figure


def _cells(axes: Axes, matrix: np.ndarray, cell: float) -> None:
    """One rectangle for each entry, so that a picture of lines (SVG, PDF) holds them one by one."""
    from matplotlib.colors import ListedColormap

    lines: dict[str, Any] = {"edgecolors": "white", "linewidth": 1.2 if cell > 0.2 else 0.6}
    cells = axes.pcolormesh(
        matrix,
        cmap=ListedColormap([style.HIDDEN, style.SEEN]),
        vmin=0,
        vmax=1,
        rasterized=matrix.size > MOST_SHAPES,
        **(lines if cell >= style.FINEST_GRID else {}),
    )
    cells.set_gid("cells")
    axes.set_aspect("equal")
    axes.invert_yaxis()


def _legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=style.SEEN, label="sees"), Patch(color=style.HIDDEN, label="hidden")]
    figure.legend(
        handles=patches,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=style.LABEL_SIZE,
        labelcolor=style.INK,
    )
