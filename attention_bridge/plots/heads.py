"""Attention weights of one head, or an alignment, large enough to read its labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.plots import style
from attention_bridge.plots.arrays import heads_of, labels, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
        weights: attention weights, `(..., heads, query, key)` or `(query, key)`, from any framework.
        query_tokens: labels of the rows, one per query; None for numbers from 0.
        key_tokens: labels of the columns, one per key; None for the query labels if there are as many, else numbers.
        head: head to draw; None for the mean over all heads.
        batch: element of the batch, counted over all axes before the heads.
        top: weight at the end of the colour bar; None for the largest weight drawn.
        title: title of the picture; None for the number of the head.

    Returns:
        The figure, for `save`.

    Raises:
        TypeError: the weights are not an array.
        InputError: the head or the batch element does not exist, or the shapes or labels do not fit.
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
    """Draw the alignment of target and source tokens in cross-attention (Bahdanau et al. 2014, figure 3).

    Columns are source tokens, labelled at the top; rows are target tokens. The largest weight of each row is framed.

    Args:
        weights: weights of cross-attention, `(..., heads, target, source)` or `(target, source)`, from any framework.
        source_tokens: labels of the columns, one per source token.
        target_tokens: labels of the rows, one per target token.
        head: head to draw; None for the mean over all heads.
        batch: element of the batch, counted over all axes before the heads.
        top: weight at the end of the colour bar; None for the largest weight drawn.
        title: title of the picture.

    Returns:
        The figure, for `save`.

    Raises:
        TypeError: the weights are not an array.
        InputError: the head or the batch element does not exist, or the shapes or labels do not fit.
    """
    matrix = _chosen(weights, head, batch)
    rows, columns = labels(target_tokens, source_tokens, matrix.shape)
    figure = _draw(matrix, rows, columns, top=top, title=title, of=("target", "source"))
    _align(figure.axes[0], matrix)
    return figure


def alignments(
    weights: Sequence[Any],
    source_tokens: Sequence[Sequence[str]],
    target_tokens: Sequence[Sequence[str]],
    names: Sequence[str],
    *,
    columns: int = 2,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Draw the alignments of several translations on one sheet, with one colour scale.

    Args:
        weights: weights of cross-attention, one array per translation, `(..., heads, target, source)`, of which the
            mean over heads is drawn, or `(target, source)`, from any framework.
        source_tokens: labels of the columns of each translation.
        target_tokens: labels of the rows of each translation.
        names: name of each translation.
        columns: number of translations side by side.
        title: title of the picture.
        subtitle: smaller line of text below the picture.

    Returns:
        The figure, for `save`.

    Raises:
        TypeError: the weights are not arrays.
        InputError: there is no translation or no column, or the shapes or labels do not fit.
    """
    given = (weights, source_tokens, target_tokens, names)
    if not len(weights) or len({len(each) for each in given}) > 1 or columns < 1:
        raise InputError(
            f"weights, source_tokens, target_tokens and names must have the same length, at least 1, and "
            f"columns at least 1, got {', '.join(str(len(each)) for each in given)} and {columns}"
        )
    matrices = [_chosen(each, None, 0) for each in weights]
    marked = [
        labels(target, source, matrix.shape)
        for target, source, matrix in zip(target_tokens, source_tokens, matrices, strict=True)
    ]
    height, width = np.max([matrix.shape for matrix in matrices], axis=0)
    cell = style.cell_inches(height, width)
    rows = -(-len(matrices) // columns)
    size = (columns * (style.side(width, cell) + 0.6) + 1.2, rows * (style.side(height, cell) + 1.0) + 1.0)
    figure = style.sheet(*size, title=title, subtitle=subtitle)
    panels = figure.subplots(rows, columns, squeeze=False)
    colours = style.scale(np.concatenate([matrix.ravel() for matrix in matrices]))
    for axes, matrix, (across, along), name in zip(panels.flat, matrices, marked, names, strict=False):
        image = style.heatmap(axes, matrix, across, along, title="", cell=cell, **colours)
        axes.set_title(name, loc="left", fontsize=12, color=style.INK, parse_math=False)
        # Limits of the largest matrix, so that all cells have one size.
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        _align(axes, matrix)
    for axes in panels.flat[len(matrices) :]:
        axes.set_visible(False)
    style.bar(figure, image, panels)
    return figure


def _align(axes: Axes, matrix: np.ndarray) -> None:
    """Move the source labels to the top and frame the largest weight of each row."""
    from matplotlib.patches import Rectangle

    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(which="both", length=0)
    for row, weights in enumerate(matrix):
        if weights.any():  # a fully masked row has no largest weight
            corner = (int(weights.argmax()) - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#00a6a6", linewidth=2, zorder=3))


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
