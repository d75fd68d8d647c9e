"""What a suspect is: one mistake that porters make, which can be planted in a port."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from attention_bridge.doctor.port import Port


@dataclass(frozen=True)
class Suspect:
    """One mistake.

    Attributes:
        name: in a few words, as tables show it.
        sign: what the port does, as the end of "the port computes the reference, but ...".
        cure: what to do, in the imperative.
        plant: makes of a right port the ports that have the mistake, one for each form of it; none where it
            does not apply.
    """

    name: str
    sign: str
    cure: str
    plant: Callable[[Port], Iterable[Port]]


def planted(port: Port, suspects: Iterable[Suspect]) -> list[Port]:
    """The ports in which all these mistakes are, one planted after the other."""
    ports = [port]
    for suspect in suspects:
        ports = [wrong for right in ports for wrong in suspect.plant(right)]
    return ports
