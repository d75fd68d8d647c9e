"""One head, large enough to read its labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_bridge.plots import style
from attention_bridge.plots.arrays import heads_of, labels, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def one_head(
    weights: Any,
    query_tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    *,
    head: int | None = 0,
    batch: int = 0,
    top: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw one head of one layer with a label for each token.

    Args:
        weights: `(..., heads, query, key)` or `(query, key)`, from any framework.
        query_tokens: one label a row; numbers from 0 if None.
        key_tokens: one label a column; by default those of the rows if there are as many, else numbers.
        head: which; the mean over all if None.
        batch: which element of the batch, counted over all axes before the heads.
        top: the weight at the end of the colour bar; the largest that is drawn if None.
        title: what the picture shows; says which head if None.

    Returns:
        A figure to `save`.

    Raises:
        TypeError: the weights are no array.
        InputError: there is no such head or element, or the shapes or labels do not fit.
    """
    matrix = _chosen(weights, head, batch)
    rows, columns = labels(query_tokens, key_tokens, matrix.shape)
    if title is None:
        title = "Mean over heads" if head is None else f"Head {head}"
    return _draw(matrix, rows, columns, top=top, title=title, of=("query", "key"))


def alignment(
    weights: Any,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    *,
    head: int | None = None,
    batch: int = 0,
    top: float | None = None,
    title: str = "",
) -> Figure:
    """Draw which source tokens each target token was written from (Bahdanau et al. 2014, figure 3).

    The source runs along the top, the target down the side. The cell that a target token looks at most is framed.

    Args:
        weights: of cross-attention: `(..., heads, target, source)` or `(target, source)`, from any framework.
        source_tokens: one label a column.
        target_tokens: one label a row.
        head: which; the mean over all if None.
        batch: which element of the batch, counted over all axes before the heads.
        top: the weight at the end of the colour bar; the largest that is drawn if None.
        title: what the picture shows.

    Returns:
        A figure to `save`.

    Raises:
        TypeError: the weights are no array.
        InputError: there is no such head or element, or the shapes or labels do not fit.
    """
    from matplotlib.patches import Rectangle

    matrix = _chosen(weights, head, batch)
    rows, columns = labels(target_tokens, source_tokens, matrix.shape)
    figure = _draw(matrix, rows, columns, top=top, title=title, of=("target", "source"))
    axes = figure.axes[0]
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(which="both", length=0)
    for row, weights_of_row in enumerate(matrix):
        if weights_of_row.any():  # a target token that sees nothing looks nowhere
            corner = (int(weights_of_row.argmax()) - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#00a6a6", linewidth=2, zorder=3))
    return figure


def _chosen(weights: Any, head: int | None, batch: int) -> np.ndarray:
    heads = heads_of("weights", weights, batch)
    return heads.mean(axis=0) if head is None else heads[place("head", head, len(heads))]


def _draw(
    matrix: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    top: float | None,
    title: str,
    of: tuple[str, str],
) -> Figure:
    cell = style.cell_inches(*matrix.shape)
    height, width = (style.side(length, cell) for length in matrix.shape)
    figure = style.sheet(width + 2.6, height + 1.8, title=title)
    axes = figure.subplots()
    cell = max(cell, style.SMALLEST / max(matrix.shape))  # a small matrix fills its side
    image = style.heatmap(axes, matrix, rows, columns, title="", cell=cell, **style.scale(matrix, top))
    style.bar(figure, image, axes)
    axes.set_ylabel(of[0], color=style.INK)
    axes.set_xlabel(of[1], color=style.INK)
    return figure
