"""The time that a diagnosis may take, its progress, and what was tried in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.text import Text

Item = TypeVar("Item")
BETWEEN = 0.1  # seconds from one line of progress to the next


class Budget:
    """The time that is left.

    Args:
        seconds: after which nothing further is tried.
        say: shows one line of progress.
    """

    def __init__(self, seconds: float, say: Callable[[str], object]) -> None:
        self.seconds = seconds
        self._say = say
        self._end = time.monotonic() + seconds
        self._said = 0.0
        self._tried: list[tuple[str, int, int]] = []

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end

    def each(self, what: str, items: Sequence[Item]) -> Iterator[Item]:
        """The items, one after the other, until the time is up."""
        self._tried.append((what, 0, len(items)))
        for number, item in enumerate(items):
            now = time.monotonic()
            if now >= self._end:
                return
            if now >= self._said + BETWEEN:
                self._said = now
                self._say(f"{what}: {number:,} of {len(items):,}")
            yield item
            self._tried[-1] = (what, number + 1, len(items))

    @property
    def stopped(self) -> str:
        """What was tried before the time was up, in one clause; empty if everything was."""
        if all(done == number for _, done, number in self._tried):
            return ""
        tried = [
            f"all {number:,} {what}" if done == number else f"{done:,} of {number:,} {what}"
            for what, done, number in self._tried
            if number
        ]
        return f"stopped after {self.seconds:g} s; tried: {', '.join(tried)}"


@contextmanager
def on_terminal(progress: Callable[[str], object] | None) -> Iterator[Callable[[str], object]]:
    """Show progress as the caller wants it, or on stderr if that is a terminal."""
    if progress is not None:
        yield progress
        return
    with Console(stderr=True, highlight=False).status("") as status:
        yield lambda line: status.update(Text(line))
