"""Plot attention weights into a file, as a picture or as an interactive page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attention_bridge.errors import InputError, require
from attention_bridge.plots import arrays
from attention_bridge.plots.files import save
from attention_bridge.plots.grids import head_grid
from attention_bridge.plots.heads import one_head
from attention_bridge.plots.pages import write_html

SUFFIXES = (".html", ".png", ".svg")


def plot(
    weights: Any,
    output: str | os.PathLike[str],
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    *,
    layer: int | None = None,
    head: int | None = None,
    title: str | None = None,
) -> Path:
    """Plot attention weights into a file: one head if only one is chosen, else a grid of heads.

    Args:
        weights: attention weights of one layer, `(..., heads, query, key)` or `(query, key)`, or a list of layers.
        output: file to write: an interactive page (.html) or a picture (.png, .svg).
        queries: label of each query; None for numbers from 0.
        keys: label of each key; None for the query labels.
        layer, head: layer and head to draw, counted from 0; None for all.
        title: title of the picture; None for the name of the file.

    Returns:
        The path of the file.

    Raises:
        InputError: the suffix is another, the directory does not exist, or matplotlib is not installed.
        ValueError: the layer or the head does not exist, or the labels do not fit.
    """
    output = Path(output)
    is_page = output.suffix.lower() == ".html"
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(f"output must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {output}")
    if not output.parent.is_dir():
        raise InputError(f"output must be in a directory that exists, got {output}")
    if not is_page:
        require(["matplotlib"], extra="plot")
    every = arrays.layers_of("weights", weights)
    shape, layers = every.shape, list(every)
    for name, index, length in (("layer", layer, shape[0]), ("head", head, shape[1])):
        if index is not None:
            arrays.place(name, index, length)
    title = output.stem if title is None else title
    if is_page:
        if keys is None and shape[2] != shape[3]:
            keys = list(map(str, range(shape[3])))
        names = list(map(str, range(shape[2]))) if queries is None else queries
        write_html(output, layers, names, keys, layer=layer or 0, head=head or 0, title=title)
        return output
    if shape[:2] == (1, 1) or (head is not None and (layer is not None or shape[0] == 1)):
        figure = one_head(layers[layer or 0], queries, keys, head=head or 0, title=title)
    else:
        chosen = [None if i is None else [i] for i in (layer, head)]
        figure = head_grid(layers, queries, keys, layers=chosen[0], heads=chosen[1], title=title)
    save(figure, output)
    return output
