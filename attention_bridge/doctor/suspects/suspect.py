"""The `Suspect` class: one porting mistake, which can be planted in a port."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from attention_bridge.doctor.port import Port


@dataclass(frozen=True)
class Suspect:
    """One porting mistake.

    Attributes:
        name: name of the mistake in a few words, as tables show it.
        sign: the faulty behaviour, as the end of a sentence that begins "the port ...".
        cure: the fix, in the imperative.
        plant: function from a correct port to the ports with the mistake, one for each form of it; none if the
            mistake does not apply.
    """

    name: str
    sign: str
    cure: str
    plant: Callable[[Port], Iterable[Port]]


def planted(port: Port, suspects: Iterable[Suspect]) -> list[Port]:
    """Plant several mistakes, one after the other; returns one port for each combination of their forms."""
    ports = [port]
    for suspect in suspects:
        ports = [wrong for right in ports for wrong in suspect.plant(right)]
    return ports
