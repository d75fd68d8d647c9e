"""Choices of options, available without importing a framework, and shell completions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attention_bridge.cli.paths import path
from attention_bridge.errors import InputError

if TYPE_CHECKING:
    from attention_bridge.weights.layout import Layout

ACTIVATIONS = ("relu", "gelu", "gelu_tanh")
DTYPES = ("float32", "float64", "bfloat16")
NORMS = ("layer", "rms")
PLATFORMS = ("cpu", "gpu", "tpu")
ROPES = ("none", "half", "interleaved")


class OptionError(Exception):
    """An option's value is not one of its choices; not a ValueError, which Typer would turn into a usage page."""


def choice(option: str, words: Sequence[str]) -> Callable[[str], str]:
    """Make a parser for an option with a few choices; its error is one line that names the option as typed."""

    def parse(text: str) -> str:
        if text not in words:
            raise OptionError(f"{option} must be one of {', '.join(words)}, got {text!r}")
        return text

    return parse


def layout(option: str) -> Callable[[str], str | Layout]:
    """Make a parser for the name of a layout, or for a file with one; its error names the option."""

    def parse(text: str) -> str | Layout:
        from attention_bridge.weights.engine import find_layout
        from attention_bridge.weights.layout_files import is_layout_file, read_layout

        try:
            return read_layout(text) if is_layout_file(text) else find_layout(text).name
        except InputError as error:
            raise OptionError(f"{option}: {error}") from error

    return parse


def existing(option: str) -> Callable[[str], Path]:
    """Make a parser for a path that must exist; its error names the option."""

    def parse(text: str) -> Path:
        if not (found := path(text)).exists():
            raise OptionError(f"{option} must be a file or directory that exists, got {text}")
        return found

    return parse


@contextmanager
def options(**names: str) -> Iterator[None]:
    """Within it, an error about an argument names the option that gives it.

    Args:
        names: option for each argument, such as `num_heads="--heads"`.
    """
    try:
        yield
    except InputError as error:
        pattern = rf"\b({'|'.join(map(re.escape, names))})\b"
        raise InputError(re.sub(pattern, lambda found: names[found[1]], str(error))) from error


def layouts(incomplete: str) -> list[str]:
    """Complete the name of a layout in a shell."""
    from attention_bridge.weights.layouts import LAYOUTS

    return [name for name in LAYOUTS if name.startswith(incomplete)]


def mechanisms(incomplete: str) -> list[str]:
    """Complete the name of a mechanism in a shell."""
    from attention_bridge.catalogue import CATALOGUE

    return [each.name for each in CATALOGUE if each.name.startswith(incomplete)]
