"""Several images in a row, and below each the attention of one or more models over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.plots import style
from attention_bridge.plots.arrays import numbers
from attention_bridge.plots.images import GREY, OPACITY, OVERLAY_COLOURS, pixels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 1.25  # inches of an image


def lit_images(
    images: Sequence[Any],
    light: Mapping[str, Any],
    names: Sequence[str],
    *,
    title: str = "",
    label: str = "attention weight",
) -> Figure:
    """Draw images in a row, and below it one row per model, lit by its attention over the patches.

    Args:
        images: pixels of each image, `(height, width, 3)` or `(height, width)`, from any framework, all of one size.
        light: label of each row to the weights of the patches, `(images, rows, columns)`, at least 0, from any
            framework.
        names: names of the images.
        title: title of the picture.
        label: label of the colour bar.

    Returns:
        The figure, for `save`; its rows share one colour scale.

    Raises:
        TypeError: an image or a light is not an array.
        InputError: there is no image or no light, or the numbers of names, lights and images differ.
    """
    pixels = [pixels_of(image) for image in images]
    if not pixels or not light or len(names) != len(pixels):
        raise InputError(
            f"images, light and names must not be empty, and there must be one name per image, "
            f"got {len(pixels)}, {len(light)} and {len(names)}"
        )
    lights = {who: _light(f"light[{who!r}]", given, len(pixels)) for who, given in light.items()}
    height, width = pixels[0].shape[:2]
    tall, wide = SIDE * height / max(height, width), SIDE * width / max(height, width)
    size = (len(pixels) * (wide + 0.15) + 2.2, (1 + len(lights)) * (tall + 0.15) + (1.2 if title else 0.7))
    figure = style.sheet(*size, title=title)
    rows = figure.subplots(1 + len(lights), len(pixels), squeeze=False)
    for axes, image, name in zip(rows[0], pixels, names, strict=True):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(name, fontsize=10.5, color=style.INK, parse_math=False)
    colours = style.scale(np.concatenate([given.ravel() for given in lights.values()]))
    colours["cmap"] = OVERLAY_COLOURS
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    for row, given in zip(rows[1:], lights.values(), strict=True):
        for axes, image, patches in zip(row, pixels, given, strict=True):
            axes.imshow(image @ np.array(GREY), cmap="gray", vmin=-0.5, vmax=1, interpolation="nearest")
            drawn = axes.imshow(patches, extent=extent, alpha=OPACITY, interpolation="nearest", **colours)
    for row, name in zip(rows, ["image", *lights], strict=True):
        row[0].set_ylabel(name, fontsize=11, color=style.INK, parse_math=False)
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    style.bar(figure, drawn, list(rows[1:].flat), label)
    return figure


def _light(name: str, given: Any, images: int) -> np.ndarray:
    light = numbers(name, given)
    if light.ndim != 3 or len(light) != images or light.min() < 0:
        raise InputError(
            f"{name} must have shape (images, rows, columns), for {images} images, and values of at least 0, "
            f"got {light.shape} from {light.min():.3g}"
        )
    return light
