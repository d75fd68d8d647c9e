"""Progress bars and warnings on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text

from attention_bridge.errors import cut, printable


def warn(text: str) -> None:
    """Print a one-line warning on stderr."""
    typer.echo(f"attention-bridge: {cut(printable(f'warning: {text}'))}", err=True)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a Python warning as a one-line warning on stderr, for `warnings.showwarning`."""
    warn(str(message))


def warn_of_miscompilation(platform: str) -> None:
    """Warn on stderr, once per process, that JAX on this CPU fails a canary."""
    from attention_bridge.accelerators import canaries

    if platform == "cpu" and (said := canaries.warn_once()):
        typer.echo(f"attention-bridge: {said}", err=True)


def watched(items: Any, count: int) -> Any:
    """Iterate over the tensors as they are written, with a progress bar on stderr."""
    return track(items, description="write", total=count, console=Console(stderr=True), transient=True)


@contextmanager
def step(name: str) -> Iterator[Callable[[str], object]]:
    """Show the progress of a step on stderr while it runs, then the time it took."""
    console = Console(stderr=True, highlight=False)
    started = time.perf_counter()
    with console.status(Text(name)) as status:
        yield lambda line: status.update(Text(f"{name}: {line}"))
    elapsed = f"{time.perf_counter() - started:5.1f} s"
    console.print(Text.assemble((f"{elapsed}  ", "dim"), name))
