"""Timing of things that do the same, in one process, turn by turn."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

TURN = 0.02  # seconds that a turn takes at least
REST = 0.1  # seconds, in which the threads of whoever ran before stop waiting for more work
BOUND = "this machine's own bound"

Run = Callable[[], Any]


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


@dataclass(frozen=True)
class Contest:
    """One case, and all who compute it.

    Attributes:
        case: what is computed.
        ours: our runs, by framework.
        peers: runs by others, by framework and name; those in PyTorch are measured against both of ours.
        tolerance: how far results may differ, relative to the largest number of the first.
        bound_ms: how long the machine needs at least for the products and exponentials of the case.
        steps: how many equal steps a run takes, if the times are those of one of them.
    """

    case: str
    ours: Mapping[str, Run]
    peers: Mapping[tuple[str, str], Run]
    tolerance: float
    bound_ms: float | None = None
    steps: int = 1


def rows(contest: Contest, seconds: float) -> Iterator[Row]:
    """Check that all compute the same, then time them in turns for about so many seconds."""
    runs = {**contest.ours, **{name: run for (_, name), run in contest.peers.items()}}
    assert_equal({name: results(run()) for name, run in runs.items()}, contest.tolerance)
    found = {name: x / contest.steps for name, x in medians(runs, seconds).items()}
    for framework in contest.ours:
        ours = found[framework]
        for peer_framework, peer in contest.peers:
            if peer_framework in (framework, "torch"):
                yield Row(contest.case, framework, ours, peer, found[peer], ours / found[peer])
        if contest.bound_ms is not None:
            yield Row(contest.case, framework, ours, BOUND, contest.bound_ms, ours / contest.bound_ms)


def medians(runs: Mapping[str, Run], seconds: float, least: int = 3) -> dict[str, float]:
    """Milliseconds of each run: the median over rounds in which all take turns, for about so many seconds."""
    repeats = {name: _repeats(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < least:
        for name, run in runs.items():
            time.sleep(REST)
            if repeats[name] > 1:
                run()  # wakes its own threads
            start = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            times[name].append(1000 * (time.perf_counter() - start) / repeats[name])
    return {name: median(each) for name, each in times.items()}


def _repeats(run: Run) -> int:
    """How often a run is repeated in one turn, so that a turn can be timed; the run is compiled already."""
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
    """Raise AssertionError unless all results are the same to rounding: only then are times worth comparing."""
    (first, expected), *others = found.items()
    for name, given in others:
        for one, other in zip(expected, given, strict=True):
            off = np.abs(one - other).max() / np.abs(one).max()
            assert off <= tolerance, f"{name} differs from {first} by {off:.1e}, more than {tolerance:.0e}"
