"""Time limit, progress and record of a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.text import Text

Item = TypeVar("Item")
BETWEEN = 0.1  # seconds between lines of progress


class Budget:
    """Time limit of a search.

    Args:
        seconds: time limit, after which `each` yields no more.
        say: called with lines of progress.
    """

    def __init__(self, seconds: float, say: Callable[[str], object]) -> None:
        self.seconds = seconds
        self._say = say
        self._end = time.monotonic() + seconds
        self._said = 0.0
        self._tried: list[tuple[str, int, int]] = []

    @property
    def is_over(self) -> bool:
        """Whether the time limit is reached."""
        return time.monotonic() >= self._end

    def each(self, kind: str, items: Sequence[Item]) -> Iterator[Item]:
        """Yield the items until the time limit is reached."""
        self._tried.append((kind, 0, len(items)))
        for number, item in enumerate(items):
            now = time.monotonic()
            if now >= self._end:
                return
            if now >= self._said + BETWEEN:
                self._said = now
                self._say(f"{kind}: {number:,} of {len(items):,}")
            yield item
            self._tried[-1] = (kind, number + 1, len(items))

    @property
    def stopped(self) -> str:
        """The items tried before the time limit, in one clause; empty if all were tried."""
        if all(done == number for _, done, number in self._tried):
            return ""
        tried = [
            f"all {number:,} {kind}" if done == number else f"{done:,} of {number:,} {kind}"
            for kind, done, number in self._tried
            if number
        ]
        return f"stopped after {self.seconds:g} s; tried: {', '.join(tried)}"


@contextmanager
def on_terminal(progress: Callable[[str], object] | None) -> Iterator[Callable[[str], object]]:
    """Yield the caller's progress function, or one that writes to stderr if that is a terminal."""
    if progress is not None:
        yield progress
        return
    with Console(stderr=True, highlight=False).status("") as status:
        yield lambda line: status.update(Text(line))
