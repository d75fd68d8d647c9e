"""Attention of a vision transformer over the patches of an image, drawn over the image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.plots import style
from attention_bridge.plots.arrays import heads_of, numbers, place
from attention_bridge.plots.rollouts import rollout
from attention_bridge.weights.leaves import to_numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVERLAY_COLOURS = "inferno"  # dark for small weights, so that the image stays dark there
OPACITY = 0.55
GREY = (0.2126, 0.7152, 0.0722)  # Rec. 709
SIDE = 3.6  # inches of the longer side of the image


def image_overlay(
    image: Any,
    weights: Any,
    *,
    query: int = 0,
    head: int | None = None,
    batch: int = 0,
    num_prefix_tokens: int = 1,
    grid: tuple[int, int] | None = None,
    title: str = "",
) -> Figure:
    """Draw an image, and beside it the image lit by one token's attention weights over the patches.

    Args:
        image: pixels, `(height, width, 3)` or `(height, width)`, from any framework: 0 to 255 if uint8, else 0 to 1.
        weights: attention weights, `(..., heads, query, key)` or `(query, key)`, from any framework. The
            keys are the prefix tokens and then the patches, row by row.
        query: token whose attention is drawn; 0 is the class token of a ViT. If it is a patch, the patch is framed.
        head: head to draw; None for the mean over all heads.
        batch: element of the batch, counted over all axes before the heads.
        num_prefix_tokens: number of tokens before the patches that are not part of the image: class tokens, registers.
        grid: numbers of rows and columns of patches; None for a square grid.
        title: title of the picture.

    Returns:
        The figure, for `save`.

    Raises:
        TypeError: the image or the weights are not an array.
        InputError: the token, the head or the batch element does not exist, or the shapes do not fit.
    """
    heads = heads_of("weights", weights, batch)
    matrix = heads.mean(axis=0) if head is None else heads[place("head", head, len(heads))]
    said = ("attends", "attention over the image", "attention weight")
    return _overlay(pixels_of(image), matrix, query, num_prefix_tokens, grid, title, said)


def rollout_overlay(
    image: Any,
    weights: Sequence[Any],
    *,
    query: int = 0,
    batch: int = 0,
    num_prefix_tokens: int = 1,
    grid: tuple[int, int] | None = None,
    title: str = "",
) -> Figure:
    """Draw the attention rollout of one token of the last layer over the patches of an image.

    Args:
        image: pixels, `(height, width, 3)` or `(height, width)`, from any framework: 0 to 255 if uint8, else 0 to 1.
        weights: attention weights, a list with one array per layer, `(..., heads, tokens, tokens)`.
        query: token whose rollout is drawn; 0 is the class token of a ViT.
        batch: element of the batch, counted over all axes before the heads.
        num_prefix_tokens: number of tokens before the patches that are not part of the image: class tokens, registers.
        grid: numbers of rows and columns of patches; None for a square grid.
        title: title of the picture.

    Returns:
        The figure, for `save`.

    Raises:
        TypeError: the image or the weights are not arrays.
        InputError: the token or the batch element does not exist, or the shapes do not fit.
    """
    rolled = rollout(weights)
    rolled = rolled.reshape(-1, *rolled.shape[-2:])
    matrix = rolled[place("batch", batch, len(rolled))]
    said = ("after the last layer", "rollout over the image", "rollout")
    return _overlay(pixels_of(image), matrix, query, num_prefix_tokens, grid, title, said)


def _overlay(
    pixels: np.ndarray,
    matrix: np.ndarray,
    query: int,
    prefix: int,
    grid: tuple[int, int] | None,
    title: str,
    said: tuple[str, str, str],
) -> Figure:
    row = matrix[place("query", query, len(matrix))]
    place("num_prefix_tokens", prefix, len(row))
    patches = row[prefix:]
    if grid is None:
        grid = (math.isqrt(len(patches)), math.isqrt(len(patches)))
    if math.prod(grid) != len(patches):
        raise InputError(
            f"grid must have as many patches as there are keys after the prefix tokens, {len(patches)}, got {grid}"
        )

    height, width = pixels.shape[:2]
    inches = SIDE / max(height, width)
    figure = style.sheet(2 * width * inches + 2.2, height * inches + (1.4 if title else 1.0), title=title)
    left, right = figure.subplots(1, 2)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    grey = pixels @ np.array(GREY)
    left.imshow(pixels)
    right.imshow(grey, cmap="gray", vmin=-0.5, vmax=1)  # brightened, because the colours above darken it
    colours = style.scale(patches)
    if patches.min() >= 0:
        colours["cmap"] = OVERLAY_COLOURS
    light = right.imshow(
        patches.reshape(grid), extent=extent, alpha=OPACITY, interpolation="nearest", **colours
    )
    who = f"token {query}" if query < prefix else f"patch {query - prefix}"
    for axes, name in ((left, f"{who} {said[0]}"), (right, said[1])):
        axes.set_title(name, fontsize=12, color=style.INK)
        axes.set_axis_off()
        if prefix <= query < prefix + len(patches):
            _frame(axes, query - prefix, grid, (height, width))
    style.bar(figure, light, [left, right], said[2])
    return figure


def _frame(axes: Axes, patch: int, grid: tuple[int, int], size: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle

    tall, wide = size[0] / grid[0], size[1] / grid[1]
    row, column = divmod(patch, grid[1])
    corner = (column * wide - 0.5, row * tall - 0.5)
    for colour, thickness in (("black", 4), ("#00e5e5", 2)):  # visible on any image
        axes.add_patch(Rectangle(corner, wide, tall, fill=False, edgecolor=colour, linewidth=thickness))


def pixels_of(image: Any) -> np.ndarray:
    """Convert an image from any framework to `(height, width, 3)` with values from 0 to 1.

    Raises:
        TypeError: the image is not an array.
        InputError: the image has another shape or range.
    """
    top = 255.0 if to_numpy("image", image).dtype == np.uint8 else 1.0
    array = numbers("image", image) / top
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3):
        raise InputError(f"image must have shape (height, width, 3) or (height, width), got {array.shape}")
    if array.min() < 0 or array.max() > 1:
        raise InputError(
            f"image must be uint8, or from 0 to 1, got values from {array.min():.3g} to {array.max():.3g}"
        )
    return array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=-1)
