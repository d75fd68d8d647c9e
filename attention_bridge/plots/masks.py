"""Pictures of boolean masks."""

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

MOST_SHAPES = 20_000  # masks with more cells are drawn as bitmaps in SVG and PDF


def draw_mask(
    mask: Any,
    query_tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draw a mask: the cell in row i and column j is dark if query i attends to key j.

    Args:
        mask: boolean mask, True where a query may attend to a key, `(query, key)`, `(batch, query, key)` or
            `(batch|1, heads|1, query|1, key)`, from any framework; each matrix is one panel, with one row of panels per
            element of the batch.
        query_tokens: labels of the rows, one per query; None for numbers from 0.
        key_tokens: labels of the columns, one per key; None for the query labels if there are as many, else numbers.
        title: title of the picture.

    Returns:
        The figure, for `save`.

    Raises:
        TypeError: the mask is not a boolean array.
        InputError: the mask does not have two to four axes, or the labels do not fit.
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
    """Draw one rectangle per entry, so that SVG and PDF hold each as a shape."""
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

    patches = [Patch(color=style.SEEN, label="attends"), Patch(color=style.HIDDEN, label="masked")]
    figure.legend(
        handles=patches,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=style.LABEL_SIZE,
        labelcolor=style.INK,
    )
