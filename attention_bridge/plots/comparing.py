"""Attention weights from PyTorch and JAX side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.plots import style
from attention_bridge.plots.arrays import numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def comparison(
    torch_weights: Any,
    jax_weights: Any,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Draw attention weights from PyTorch and from JAX side by side, and their difference.

    Args:
        torch_weights: attention weights from PyTorch, `(query, key)`.
        jax_weights: attention weights from JAX, of the same shape.
        query_tokens: labels of the rows, one per query.
        key_tokens: labels of the columns, one per key; None for the query labels.
        title: title of the picture.
        subtitle: smaller line of text below the picture.

    Returns:
        A figure with one colour bar for the weights and one for the difference.

    Raises:
        TypeError: the weights are not arrays.
        InputError: the shapes do not fit each other or the labels.
    """
    left, right = _matrix("torch_weights", torch_weights), _matrix("jax_weights", jax_weights)
    key_tokens = query_tokens if key_tokens is None else key_tokens
    expected = (len(query_tokens), len(key_tokens))
    for name, array in (("torch_weights", left), ("jax_weights", right)):
        if array.shape != expected:
            raise InputError(f"{name} must have shape (query, key) = {expected}, got {array.shape}")

    cell = style.cell_inches(*expected)
    height, width = (style.side(length, cell) for length in expected)
    figure = style.sheet(3 * width + 4.0, height + 2.2, title=title, subtitle=subtitle)
    axes = figure.subplots(1, 3, sharey=True)

    shared = style.scale(np.stack([left, right]))
    style.heatmap(axes[0], left, query_tokens, key_tokens, title="PyTorch", cell=cell, **shared)
    image = style.heatmap(axes[1], right, query_tokens, key_tokens, title="JAX", cell=cell, **shared)
    style.bar(figure, image, axes[:2])

    difference = left - right
    largest = float(np.abs(difference).max())
    limit = largest or 1.0
    scale = {"cmap": style.SIGNED_COLOURS, "vmin": -limit, "vmax": limit}
    name = f"PyTorch − JAX, largest {largest:.1e}"
    image = style.heatmap(axes[2], difference, query_tokens, key_tokens, title=name, cell=cell, **scale)
    bar = style.bar(figure, image, axes[2], "difference")
    bar.set_ticks(np.linspace(-limit, limit, 5))
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.1e}" if value else "0")
    axes[0].set_ylabel("query word", color=style.INK)
    axes[1].set_xlabel("key word", color=style.INK)
    return figure


def _matrix(name: str, weights: Any) -> np.ndarray:
    array = numbers(name, weights).astype(np.float64)
    if array.ndim != 2:
        raise InputError(f"{name} must have shape (query, key), got {array.shape}")
    return array
