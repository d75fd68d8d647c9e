"""Grid of the attention weights of many heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.plots import style
from attention_bridge.plots.arrays import labels, layers_of, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 400
PANEL = 2.0  # inches
WIDEST = 20.0
IN_A_ROW = 4  # panels per row for a single layer
NARROWEST_WITH_LABELS = 1.5


def head_grid(
    weights: Any,
    query_tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    batch: int = 0,
    top: float | None = None,
    title: str = "",
) -> Figure:
    """Draw every head of one layer or several layers, with one row per layer and one column per head.

    All panels share one colour scale.

    Args:
        weights: attention weights of one layer, `(..., heads, query, key)`, or a list of layers, from any framework.
        query_tokens: labels of the rows, one per query; None for numbers from 0.
        key_tokens: labels of the columns, one per key; None for the query labels if there are as many, else numbers.
        layers: layers to draw; None for all.
        heads: heads to draw; None for all.
        batch: element of the batch, counted over all axes before the heads.
        top: weight at the end of the colour bar; None for the largest weight drawn.
        title: title of the picture.

    Returns:
        The figure, for `save`; its axes are the panels, row by row, and the colour bar.

    Raises:
        TypeError: the weights are not arrays.
        InputError: a layer, a head or the batch element does not exist, the shapes or labels do not fit, or there are
            more than 400 panels.
    """
    everything = layers_of("weights", weights, batch)
    rows, columns = labels(query_tokens, key_tokens, everything.shape[-2:])
    chosen_layers, chosen_heads = (
        [place(name, i, length) for i in (range(length) if asked is None else asked)]
        for name, asked, length in zip(("layers", "heads"), (layers, heads), everything.shape, strict=False)
    )
    panels = [(layer, head) for layer in chosen_layers for head in chosen_heads]
    if not 0 < len(panels) <= MOST_PANELS:
        raise InputError(f"layers and heads must make 1 to {MOST_PANELS} panels, got {len(panels)}")

    several = len(everything) > 1
    across = len(chosen_heads) if len(chosen_layers) > 1 else min(IN_A_ROW, len(chosen_heads))
    down = -(-len(panels) // across)
    query_len, key_len = everything.shape[-2:]
    width = min(max(PANEL, min(style.cell_inches(key_len) * key_len, 2 * PANEL)), WIDEST / across)
    cell = width / key_len
    height = min(cell * query_len, 2 * width)
    labelled = width >= NARROWEST_WITH_LABELS
    figure = style.sheet(across * (width + 0.25) + 2.2, down * (height + 0.4) + 1.6, title=title)
    grid = figure.subplots(down, across, squeeze=False)
    colours = style.scale(everything[np.ix_(chosen_layers, chosen_heads)], top)
    for i, (axes, (layer, head)) in enumerate(zip(grid.flat, panels, strict=False)):
        image = axes.imshow(everything[layer, head], aspect="equal", interpolation="nearest", **colours)
        # Only the left and the lowest panels have labels, because drawing ticks in every panel takes minutes.
        left = rows if labelled and i % across == 0 else []
        below = columns if labelled and i + across >= len(panels) else []
        name = f"{layer} · {head}" if several else f"head {head}"
        style.name_axes(axes, left, below, cell=cell, title=name)
        axes.title.set_fontsize(11 if labelled else 9)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    style.bar(figure, image, list(grid.flat[: len(panels)]))
    figure.supylabel("query", fontsize=10.5, color=style.INK)
    figure.supxlabel(
        "key" + (", in panels named layer · head" if several else ""), fontsize=10.5, color=style.INK
    )
    return figure
