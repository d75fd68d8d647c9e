"""Timing of equivalent runs in one process, in turns."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

TURN = 0.02  # least time of a turn in seconds
REST = 0.1  # pause in seconds, in which the threads of the previous turn stop busy-waiting
BOUND = "this machine's own bound"

Run = Callable[[], Any]


class Row(NamedTuple):
    """One comparison.

    Attributes:
        case: description of the case.
        framework: mirror that is compared, `torch` or `jax`.
        ours_ms: median time of the mirror, in milliseconds.
        peer: name of the other implementation.
        peer_ms: median time of the other implementation, in milliseconds.
        ratio: time of the mirror over the time of the other implementation.
    """

    case: str
    framework: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float


@dataclass(frozen=True)
class Contest:
    """One case, and all implementations that compute it.

    Attributes:
        case: description of the case.
        mirrors: runs of this package's mirrors, by framework.
        peers: runs of other implementations, by framework and name; PyTorch runs are compared with both mirrors.
        tolerance: largest difference of the results, relative to the largest number of the first result.
        bound_ms: least time of the products and exponentials of the case, in milliseconds; None for no bound.
        steps: number of equal steps in a run; times are divided by it.
    """

    case: str
    mirrors: Mapping[str, Run]
    peers: Mapping[tuple[str, str], Run]
    tolerance: float
    bound_ms: float | None = None
    steps: int = 1


def rows(contest: Contest, seconds: float) -> Iterator[Row]:
    """Check that all runs give the same results, then time them in turns for about `seconds`."""
    runs = {**contest.mirrors, **{name: run for (_, name), run in contest.peers.items()}}
    assert_equal({name: results(run()) for name, run in runs.items()}, contest.tolerance)
    found = {name: x / contest.steps for name, x in medians(runs, seconds).items()}
    for framework in contest.mirrors:
        ours = found[framework]
        for peer_framework, peer in contest.peers:
            if peer_framework in (framework, "torch"):
                yield Row(contest.case, framework, ours, peer, found[peer], ours / found[peer])
        if contest.bound_ms is not None:
            yield Row(contest.case, framework, ours, BOUND, contest.bound_ms, ours / contest.bound_ms)


def medians(runs: Mapping[str, Run], seconds: float, least: int = 3) -> dict[str, float]:
    """The median time of each run in milliseconds; all runs take turns for about `seconds`, at least `least` rounds."""
    repeats = {name: _repeats(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < least:
        for name, run in runs.items():
            time.sleep(REST)
            if repeats[name] > 1:
                run()  # wakes its threads
            start = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            times[name].append(1000 * (time.perf_counter() - start) / repeats[name])
    return {name: median(each) for name, each in times.items()}


def _repeats(run: Run) -> int:
    """The number of repetitions in one turn, so that a turn takes at least `TURN`; the run is already compiled."""
    start = time.perf_counter()
    run()
    return math.ceil(TURN / (time.perf_counter() - start))


def results(found: Any) -> list[np.ndarray]:
    """The arrays that a run returns, in float64."""
    return [
        np.asarray(x.detach().float() if isinstance(x, torch.Tensor) else x, np.float64)
        for x in jax.tree.leaves(found)
    ]


def assert_equal(found: Mapping[str, list[np.ndarray]], tolerance: float) -> None:
    """Raise AssertionError unless all results agree within the tolerance."""
    (first, expected), *others = found.items()
    for name, given in others:
        for one, other in zip(expected, given, strict=True):
            off = np.abs(one - other).max() / np.abs(one).max()
            assert off <= tolerance, f"{name} differs from {first} by {off:.1e}, more than {tolerance:.0e}"
