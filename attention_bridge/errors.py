"""Exceptions of the bridge, and error messages that fit on a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Literal, NamedTuple

LONGEST_MESSAGE = 280  # characters; with the command's prefix a line has at most 300

FaultKind = Literal[
    "missing",
    "unexpected",
    "wrong shape",
    "wrong dtype",
    "wrong value",
    "clash",
    "ambiguous",
    "refused",
    "unknown axis",
]


class Fault(NamedTuple):
    """A tensor that prevents a conversion."""

    name: str
    fault: FaultKind
    expected: str
    given: str


class ConversionError(ValueError):
    """Tensors cannot be converted from one layout to another; the message lists every fault.

    Attributes:
        faults: the faults as data.
    """

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message, faults)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return str(self.args[0])


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written; the message gives the reason in one sentence.

    Names in the message may come from a damaged file: unprintable characters are escaped, and the middle of a long
    message is omitted.

    Attributes:
        whole: the full message.
    """

    def __init__(self, message: str) -> None:
        self.whole = printable(message)
        super().__init__(cut(self.whole))


class DiskError(CheckpointError, OSError):
    """An I/O error while a checkpoint was read or written, such as no space, no permission or no such directory."""


class UnknownMechanismError(ValueError):
    """The catalogue has no mechanism of this name; the message lists the known names."""


class PlatformError(ValueError):
    """The requested platform is not available on this machine; the message lists the available ones."""


class InputError(ValueError):
    """A request cannot be fulfilled; the message gives the reason in one sentence."""


# Errors whose message is one sentence for the user, shown without a traceback.
REFUSALS = (CheckpointError, ConversionError, InputError, PlatformError, UnknownMechanismError)


# Distributions whose name is not the one to import.
DISTRIBUTIONS = {"orbax": "orbax-checkpoint"}


def require(packages: Sequence[str], *, extra: str) -> None:
    """Raise unless all packages are installed.

    Args:
        packages: import names.
        extra: extras of `attention-bridge` that include them, separated by commas.

    Raises:
        InputError: a package is missing.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        distributions = " ".join(DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in missing)
        raise InputError(
            f"this needs packages that are not installed: {', '.join(missing)}; install them with: "
            f"python -m pip install {distributions} (or with attention-bridge's extra [{extra}])"
        )


def unknown(kind: str, name: str, known: Iterable[str], command: str) -> str:
    """Report an unknown name in one sentence, with the nearest known names.

    Args:
        kind: noun for the names, such as "layout".
        name: the unknown name.
        known: all known names.
        command: subcommand of `attention-bridge` that lists them.
    """
    lower = {each.lower(): each for each in known}
    inside = [each for each in lower if name.lower() in each]
    near = [lower[each] for each in get_close_matches(name.lower(), lower, n=3, cutoff=0.6) or inside[:3]]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {kind} {name!r}; {hint}`attention-bridge {command}` lists all"


def cut(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """Shorten a text to at most `longest` characters by omitting its middle."""
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 3]}...{text[-end:]}"


def printable(text: str) -> str:
    """Escape the characters of a text that cannot be printed on one line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
