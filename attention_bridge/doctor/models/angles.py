"""The angles of RoPE, fitted one by one, and the scaling that explains them: linear, llama3 or YaRN.

Sources: Chen et al. 2023 (linear), Peng et al. 2023 (YaRN), Meta 2024 (llama3).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attention_bridge.doctor.models.core import Core
from attention_bridge.doctor.models.target import Target

STEPS, STEP = 40, 1e-6
SETTLED = 0.9  # the search ends when a step leaves more than this part of the squared residual
ALIKE = 0.02  # relative distance between angles of the same scaling
AMPLITUDE = 1e-3


def other_angles(core: Core, target: Target, bases: tuple[float, ...] = ()) -> Core | None:
    """The computation with the angles and the amplitude of RoPE with which outputs fit; None if none do.

    Args:
        core: a computation with other angles, near which the search begins.
        target: the outputs.
        bases: bases of RoPE whose angles the search begins with; none for the angles of `core`.
    """
    if core.rope == "none":
        return None
    dim = core.turned or target.case.query.shape[-1] // core.heads
    for base in bases or (core.base,):
        begin = replace(core, base=base)
        angles = plain(begin, dim) if begin.theta is None else np.array(begin.theta)
        found = _descended(begin, np.append(np.log(angles / begin.stretch), np.log(begin.amplitude)), target)
        if found is not None:
            return found
    return None


def plain(core: Core, dim: int) -> np.ndarray:
    """The angles of a base without scaling."""
    return np.asarray(core.base ** (-np.arange(0, dim, 2) / dim))


def _descended(core: Core, point: np.ndarray, target: Target) -> Core | None:
    """Least squares by Levenberg and Marquardt over the logarithms of the angles and of the amplitude."""

    def at(x: np.ndarray) -> Core:
        theta = tuple(np.exp(x[:-1]).tolist())
        return replace(core, theta=theta, amplitude=float(np.exp(x[-1])), stretch=1.0)

    def residual(x: np.ndarray) -> np.ndarray | None:
        made = target.made(at(x))
        return None if made is None or not np.isfinite(made).all() else (made - target.outputs).reshape(-1)

    here, damping = residual(point), 1e-3
    if here is None:
        return None
    settled = False
    begin = float(here @ here)
    for step in range(STEPS):
        if step == STEPS // 3 and float(here @ here) > begin / 10:
            return None
        moved = [residual(point + STEP * unit) for unit in np.eye(len(point))]
        if any(each is None for each in moved):
            return None
        slope = np.stack([(each - here) / STEP for each in moved if each is not None], -1)
        square, pull = slope.T @ slope, slope.T @ here
        for _ in range(8):
            trial = point - np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-12), pull)
            there = residual(np.clip(trial, -40, 5))
            if there is not None and there @ there < here @ here:
                slow = float(there @ there) > SETTLED * float(here @ here)
                point, here, damping = np.clip(trial, -40, 5), there, damping / 5
                settled = slow and target.fits(at(point))
                break
            damping *= 5
        else:
            settled = True
        if settled:
            break
    return at(point) if target.fits(at(point)) else None


def scaling(core: Core, dim: int) -> str:
    """The scaling of RoPE in words; empty for none."""
    if core.theta is None:
        return "" if core.stretch == 1 else f"linear scaling by {core.stretch:.4g}"
    ratio = plain(core, dim) / np.array(core.theta)
    amplified = abs(core.amplitude - 1) > AMPLITUDE
    largest = float(ratio.max())
    if np.abs(ratio - 1).max() <= ALIKE:
        return f"an amplitude of {core.amplitude:.4g}" if amplified else ""
    if np.abs(ratio / ratio[0] - 1).max() <= ALIKE:
        return f"linear scaling by {largest:.4g}"
    if abs(ratio[0] - 1) > ALIKE or (np.diff(ratio) < -ALIKE).any():
        return "other angles"
    if amplified:
        return f"YaRN scaling by {largest:.4g} with amplitude {core.amplitude:.4g}"
    return f"scaling of low frequencies by {largest:.4g}, as in llama3 or in YaRN without amplitude"


def rescaled(core: Core, other: Core, dim: int) -> float | None:
    """The factor on the scores by which two computations differ alone; None if their angles differ too.

    An amplitude on all features of a head is a factor on the scores.
    """
    if core.turned is not None or other.theta is None:
        return None
    right = plain(core, dim) / core.stretch if core.theta is None else np.array(core.theta)
    if np.abs(np.array(other.theta) / right - 1).max() > ALIKE:
        return None
    return (other.amplitude / core.amplitude) ** 2
