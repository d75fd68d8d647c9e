"""Choices of options, known without importing a framework, and completions for shells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

ACTIVATIONS = ("relu", "gelu", "gelu_tanh")
DTYPES = ("float32", "float64", "bfloat16")
NORMS = ("layer", "rms")
PLATFORMS = ("cpu", "gpu", "tpu")
ROPES = ("none", "half", "interleaved")


class OptionError(Exception):
    """An option has a value that is none of its choices. Typer would turn a ValueError into its own usage page."""


def choice(option: str, words: Sequence[str]) -> Callable[[str], str]:
    """A parser for an option with a few choices; its error is one line that names the option as it was typed."""

    def parse(text: str) -> str:
        if text not in words:
            raise OptionError(f"{option} must be one of {', '.join(words)}, got {text!r}")
        return text

    parse.__name__ = "|".join(words)  # what help shows
    return parse


def layouts(incomplete: str) -> list[str]:
    """The layouts whose names begin so, for shells."""
    from attention_bridge.weights.layouts import LAYOUTS

    return [name for name in LAYOUTS if name.startswith(incomplete)]


def mechanisms(incomplete: str) -> list[str]:
    """The mechanisms whose names begin so, for shells."""
    from attention_bridge.catalogue import CATALOGUE

    return [each.name for each in CATALOGUE if each.name.startswith(incomplete)]
