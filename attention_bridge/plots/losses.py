"""Loss curves of training runs, and the difference between two of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.plots import style
from attention_bridge.plots.arrays import numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A thin dashed line is drawn over a broad one, so that both are visible where they coincide.
LINES = (
    {"color": "#f4a582", "linewidth": 4.0},
    {"color": "#2166ac", "linewidth": 1.2, "linestyle": (0, (4, 2))},
)
MEANS = 40  # the running mean of a curve spans 1/40 of it
WIDTH, TALL, LOW = 8.5, 3.6, 1.9  # width, height of the curves and height of their difference, in inches


def curves(losses: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw the loss of one run, or of two runs with their difference below.

    Args:
        losses: label of each curve to its losses, `(steps)`, positive numbers, from any framework.
        title: title of the picture.

    Returns:
        The figure, for `save`; the vertical axes are logarithmic. A long curve is drawn faintly, with its running mean
        over a fortieth of the steps on top. The difference is relative to the second curve, step by step.

    Raises:
        TypeError: a curve is not an array.
        InputError: there are not one or two curves, or the curves are not positive numbers for the same steps.
    """
    if not 1 <= len(losses) <= len(LINES):
        raise InputError(f"losses must be one curve or two, got {len(losses)}")
    drawn = {name: _curve(f"losses[{name!r}]", given) for name, given in losses.items()}
    lengths = {len(curve) for curve in drawn.values()}
    if len(lengths) > 1:
        raise InputError(f"losses must have the same number of steps, got {' and '.join(map(str, lengths))}")

    from matplotlib.ticker import LogFormatter

    two = len(drawn) == 2
    figure = style.sheet(WIDTH, TALL + LOW * two + (0.4 if title else 0.0), title=title)
    rows = figure.subplots(1 + two, 1, sharex=True, squeeze=False, height_ratios=[TALL, LOW][: 1 + two])[:, 0]
    for (name, curve), line in zip(drawn.items(), LINES[-len(drawn) :], strict=True):
        steps, mean = _running_mean(curve)
        if len(steps) < len(curve):
            rows[0].plot(np.arange(1, len(curve) + 1), curve, color=line["color"], linewidth=0.5, alpha=0.4)
        rows[0].plot(steps, mean, label=name, **line)
    _dress(rows[0], "loss")
    rows[0].yaxis.set_major_formatter("{x:g}")
    rows[0].yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    rows[0].legend(frameon=False, labelcolor=style.INK)
    if two:
        one, other = drawn.values()
        apart = np.abs(one / other - 1.0)
        seen = np.where(apart > 0, apart, np.nan)
        rows[1].plot(
            np.arange(1, len(apart) + 1), seen, color=style.SEEN, linewidth=0.8, marker=".", markersize=3
        )
        _dress(rows[1], "relative difference")
        rows[1].set_title(f"largest {apart.max():.1e}", fontsize=10, color=style.INK, loc="right")
    rows[-1].set_xlabel("step", color=style.INK)
    return figure


def _running_mean(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed loss and its steps; the noise between batches of a long curve hides the trend."""
    span = max(1, len(curve) // MEANS)
    first = (span - 1) / 2 + 1
    mean = np.convolve(curve, np.full(span, 1 / span), mode="valid")
    return first + np.arange(len(mean)), mean


def _curve(name: str, given: Any) -> np.ndarray:
    curve = numbers(name, given).astype(np.float64)
    if curve.ndim != 1 or curve.min() <= 0:
        raise InputError(
            f"{name} must have shape (steps) and positive numbers, got {curve.shape} from {curve.min():.3g}"
        )
    return curve


def _dress(axes: Axes, name: str) -> None:
    axes.set_yscale("log")
    axes.set_ylabel(name, color=style.INK)
    axes.tick_params(which="both", colors=style.INK, labelsize=style.LABEL_SIZE)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
