"""What the bridge raises, and messages that fit on a line."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal, NamedTuple

LONGEST_MESSAGE = 280  # characters; with what the command puts before it, a line has no more than 300

FaultKind = Literal[
    "missing",
    "unexpected",
    "wrong shape",
    "wrong dtype",
    "wrong value",
    "clash",
    "refused",
    "unknown axis",
]


class Fault(NamedTuple):
    """A tensor that stands in the way."""

    name: str
    fault: FaultKind
    expected: str
    given: str


class ConversionError(ValueError):
    """Tensors cannot go from one layout to another; the message lists every fault.

    Attributes:
        faults: the same faults as data.
    """

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message, faults)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return str(self.args[0])


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written; the message says in one sentence why.

    Names in it may come from a damaged file: what cannot be printed on one line is escaped, and the middle of a long
    message is left out.

    Attributes:
        whole: the message with its middle.
    """

    def __init__(self, message: str) -> None:
        self.whole = printable(message)
        super().__init__(cut(self.whole))


class DiskError(CheckpointError, OSError):
    """The system failed while a checkpoint was read or written: no space, no permission, no such place."""


class UnknownMechanismError(ValueError):
    """The catalogue has no mechanism of that name; the message lists those it has."""


class PlatformError(ValueError):
    """The platform asked for is not on this machine; the message says which are."""


class InputError(ValueError):
    """Something was asked for that cannot be done; the message says in one sentence what and why."""


# Errors that say in one sentence what was asked for and cannot be.
REFUSALS = (CheckpointError, ConversionError, InputError, PlatformError, UnknownMechanismError)


def require(packages: Sequence[str], *, extra: str) -> None:
    """Raise unless all packages are installed.

    Args:
        packages: names as they are imported.
        extra: what to install to have them all.

    Raises:
        InputError: some are missing.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        raise InputError(
            f"this needs packages that are not installed: {', '.join(missing)}; "
            f"install them with: pip install 'attention-bridge[{extra}]'"
        )


def cut(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """A text of at most so many letters: what stands in the middle of a longer one is left out."""
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 3]}...{text[-end:]}"


def printable(text: str) -> str:
    """A text in which whatever cannot be printed on one line is escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
