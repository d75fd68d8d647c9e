"""What the bridge raises when tensors or files are not what they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attention_bridge.lines import cut, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_bridge.weights.report import Fault


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
