"""Many heads at a glance."""

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
IN_A_ROW = 4  # heads of a single layer
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
    """Draw every head of a layer, or of several layers: a row for each layer, a column for each head.

    All panels share one colour scale.

    Args:
        weights: `(..., heads, query, key)` of one layer, or a list of these, from any framework.
        query_tokens: one label a row; numbers from 0 if None.
        key_tokens: one label a column; by default those of the rows if there are as many, else numbers.
        layers: which; all if None.
        heads: which; all if None.
        batch: which element of the batch, counted over all axes before the heads.
        top: the weight at the end of the colour bar; the largest that is drawn if None.
        title: what the picture shows.

    Returns:
        A figure to `save`; its axes are the panels, row by row, and the colour bar.

    Raises:
        TypeError: the weights are no arrays.
        InputError: there is no such layer, head or element, the shapes or labels do not fit, or there are more
            than 400 panels.
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
        # Only panels at the left and those with none below have labels: ticks in each take minutes.
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
