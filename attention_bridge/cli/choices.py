"""What options may be, known before anything is imported: shells complete it, and help lists it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

ACTIVATIONS = ("relu", "gelu", "gelu_tanh")
DTYPES = ("float32", "float64", "bfloat16")
NORMS = ("layer", "rms")
PLATFORMS = ("cpu", "gpu", "tpu")
ROPES = ("none", "half", "interleaved")


class OptionError(Exception):
    """An option was given another word; no ValueError, for these are made pages of usage on the way."""


def choice(option: str, words: Sequence[str]) -> Callable[[str], str]:
    """A parser of an option that is one of a few words; a slip is one line that names the option as it was typed."""

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
