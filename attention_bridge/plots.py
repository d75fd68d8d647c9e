"""Pictures of attention.

An array of weights or a mask has a row for every query and a column for every key, and comes from either framework
or from numpy: row i shows where query i looks. matplotlib draws without a screen and keeps no global state here.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_bridge.weights.leaves import to_numpy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WEIGHTS_COLOURS = "BuPu"  # nearly white is no attention
DIFFERENCE_COLOURS = "RdBu_r"
HIDDEN, SEEN = "#ececec", "#6a51a3"
INCHES_PER_TOKEN = 0.27
INK = "#333333"


def comparison(
    torch_weights: Any,
    jax_weights: Any,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Draw the same attention from PyTorch and from JAX side by side, and their difference.

    Args:
        torch_weights: `(query, key)`, from any framework.
        jax_weights: the same shape.
        query_tokens: one label a row.
        key_tokens: one label a column; by default those of the rows.
        title: what the picture shows.
        subtitle: a second, smaller line.

    Returns:
        A figure with one colour bar for the weights and one for the difference.

    Raises:
        TypeError: the weights are no arrays.
        ValueError: the shapes do not fit each other or the labels.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    left, right = _weights("torch_weights", torch_weights), _weights("jax_weights", jax_weights)
    key_tokens = query_tokens if key_tokens is None else key_tokens
    for name, array in (("torch_weights", left), ("jax_weights", right)):
        if array.shape != (len(query_tokens), len(key_tokens)):
            expected = (len(query_tokens), len(key_tokens))
            raise ValueError(f"{name} must have shape (query, key) = {expected}, got {array.shape}")

    width, height = (max(2.4, INCHES_PER_TOKEN * len(tokens)) for tokens in (key_tokens, query_tokens))
    figure = Figure(
        figsize=(3 * width + 4.0, height + 2.2), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    )
    figure.suptitle(title, fontsize=14, fontweight="bold", color=INK, parse_math=False)
    figure.supxlabel(subtitle, fontsize=9.5, color=INK, parse_math=False)
    axes = figure.subplots(1, 3, sharey=True)

    top = max(float(left.max()), float(right.max())) or 1.0
    shared = {"cmap": WEIGHTS_COLOURS, "vmin": 0.0, "vmax": top}
    heatmap(axes[0], left, query_tokens, key_tokens, title="PyTorch", **shared)
    image = heatmap(axes[1], right, query_tokens, key_tokens, title="JAX", **shared)
    figure.colorbar(image, ax=axes[:2], shrink=0.85, pad=0.02).set_label("attention weight", color=INK)

    difference = left - right
    largest = float(np.abs(difference).max())
    limit = largest or 1.0
    scale = {"cmap": DIFFERENCE_COLOURS, "vmin": -limit, "vmax": limit}
    name = f"PyTorch − JAX, largest {largest:.1e}"
    image = heatmap(axes[2], difference, query_tokens, key_tokens, title=name, **scale)
    bar = figure.colorbar(image, ax=axes[2], shrink=0.85, pad=0.04, ticks=np.linspace(-limit, limit, 5))
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.1e}" if value else "0")
    bar.set_label("difference", color=INK)
    axes[0].set_ylabel("the word that looks", color=INK)
    axes[1].set_xlabel("the word that is looked at", color=INK)
    return figure


def heatmap(
    axes: Axes,
    array: np.ndarray,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    *,
    title: str,
    **colours: Any,
) -> Any:
    """Draw one `(query, key)` array with its labels into `axes`; returns the image, for a colour bar."""
    image = axes.imshow(array, aspect="equal", interpolation="nearest", **colours)
    axes.set_title(title, fontsize=12, color=INK, parse_math=False)
    axes.set_xticks(range(len(key_tokens)), key_tokens, rotation=90, fontsize=9.5, parse_math=False)
    axes.set_yticks(range(len(query_tokens)), query_tokens, fontsize=9.5, parse_math=False)
    axes.set_xticks(np.arange(len(key_tokens) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(query_tokens) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="both", length=0, colors=INK)
    axes.spines[:].set_visible(False)
    return image


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
        ValueError: it has not two to four axes, or the labels do not fit.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    array = to_numpy("mask", mask)
    if array.dtype != bool:
        raise TypeError(f"mask must be boolean (True: the query attends to the key), got {array.dtype}")
    if array.ndim not in (2, 3, 4) or not array.size:
        raise ValueError(
            "mask must have shape (query, key), (batch, query, key) or (batch|1, heads|1, query|1, key), "
            f"got {array.shape}"
        )
    panels = {2: array[None, None], 3: array[:, None], 4: array}[array.ndim]  # batch heads query key
    batch, heads, query_len, key_len = panels.shape
    if key_tokens is None and query_len == key_len:
        key_tokens = query_tokens
    rows, columns = (
        [str(place) for place in range(length)] if tokens is None else list(tokens)
        for tokens, length in ((query_tokens, query_len), (key_tokens, key_len))
    )
    for name, tokens, length in (("query_tokens", rows, query_len), ("key_tokens", columns, key_len)):
        if len(tokens) != length:
            raise ValueError(f"{name} must be {length}, one for each of the mask, got {len(tokens)}")

    width, height = (max(1.6, INCHES_PER_TOKEN * length) + 1.0 for length in (key_len, query_len))
    figure = Figure(
        figsize=(heads * width, batch * height + 0.4), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    )
    figure.suptitle(title, fontsize=14, fontweight="bold", color=INK, parse_math=False)
    for b, row_of_axes in enumerate(figure.subplots(batch, heads, squeeze=False)):
        for h, axes in enumerate(row_of_axes):
            of = [f"batch {b}"] * (batch > 1) + [f"head {h}"] * (heads > 1)
            _cells(axes, panels[b, h], rows, columns, title=", ".join(of))
    return figure


def _cells(
    axes: Axes, matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str
) -> None:
    """One rectangle for each entry, so that a picture of lines (SVG, PDF) holds them one by one."""
    from matplotlib.colors import ListedColormap

    cells = axes.pcolormesh(
        matrix, cmap=ListedColormap([HIDDEN, SEEN]), vmin=0, vmax=1, edgecolors="white", linewidth=1.2
    )
    cells.set_gid("cells")
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_title(title, fontsize=12, color=INK, parse_math=False)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90, fontsize=9.5, parse_math=False)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=9.5, parse_math=False)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure in the format that the name ends in; an older file stays until the new one is complete.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=160, facecolor="white")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _weights(name: str, weights: Any) -> np.ndarray:
    array = to_numpy(name, weights).astype(np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must have shape (query, key), got {array.shape}")
    return array
