"""Choices of options, available without importing a framework, and shell completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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

    parse.__name__ = "|".join(words)  # shown by --help
    return parse


def layouts(incomplete: str) -> list[str]:
    """Complete the name of a layout in a shell."""
    from attention_bridge.weights.layouts import LAYOUTS

    return [name for name in LAYOUTS if name.startswith(incomplete)]


def mechanisms(incomplete: str) -> list[str]:
    """Complete the name of a mechanism in a shell."""
    from attention_bridge.catalogue import CATALOGUE

    return [each.name for each in CATALOGUE if each.name.startswith(incomplete)]
