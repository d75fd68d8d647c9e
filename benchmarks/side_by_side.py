"""Timing of things that do the same, in one process, turn by turn."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

import numpy as np

REST = 0.1  # seconds, in which the threads of whoever ran before stop waiting for more work


class Row(NamedTuple):
    """One comparison.

    Attributes:
        case: what was computed.
        framework: whose arrays ours took, `torch` or `jax`.
        ours_ms: the median time of ours, in milliseconds.
        peer: what it is compared with.
        peer_ms: its median time.
        ratio: ours over peer.
    """

    case: str
    framework: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float


def medians(runs: Mapping[str, Callable[[], Any]], seconds: float, least: int = 3) -> dict[str, float]:
    """Milliseconds of each run: the median over rounds in which all take turns, for about so many seconds."""
    for run in runs.values():
        run()  # compiles, and makes caches warm
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < least:
        for name, run in runs.items():
            time.sleep(REST)
            start = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: median(each) for name, each in times.items()}


def assert_equal(found: Mapping[str, list[np.ndarray]], tolerance: float) -> None:
    """Raise AssertionError unless all results are the same to rounding: only then are times worth comparing."""
    (first, expected), *others = found.items()
    for name, results in others:
        for one, other in zip(expected, results, strict=True):
            off = np.abs(one - other).max() / np.abs(one).max()
            assert off <= tolerance, f"{name} differs from {first} by {off:.1e}, more than {tolerance:.0e}"
