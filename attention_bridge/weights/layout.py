"""A layout: the table that says how an outside format's tensors become the hub's, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from attention_bridge.weights.grouped import GroupedMove, GroupedRule
from attention_bridge.weights.names import NamePattern
from attention_bridge.weights.rule import Move, Rule


@dataclass(frozen=True)
class Constant:
    """A tensor of theirs that carries no information: `value(shape)` is what it always holds."""

    name: str
    value: Callable[[tuple[int, ...]], np.ndarray]
    reason: str


@dataclass(frozen=True)
class Tied:
    """A tensor of theirs that is another one of theirs a second time."""

    name: str
    to: str
    reason: str


@dataclass(frozen=True)
class Dropped:
    """A tensor of theirs that the hub leaves behind."""

    name: str
    reason: str


@dataclass(frozen=True)
class Refused:
    """A tensor of theirs that changes the result and that the hub cannot hold."""

    name: str
    reason: str


@dataclass(frozen=True)
class ZeroBias:
    """A bias that the hub has and they do not: zeros, one for each row of the hub's `weight`."""

    bias: str
    weight: str
    reason: str


Shapes = Mapping[str, tuple[int, ...]]
Entry = TypeVar("Entry", Constant, Tied, Dropped, Refused)


@dataclass(frozen=True)
class Layout:
    """One outside format.

    Args:
        name: what users call it.
        rules: in order; the first whose names and shapes fit is taken, in both directions.
        spellings: other names for the same tensors, as (name pattern, the name pattern that the rules use);
            all that fit are applied, in order.
        constants: tensors that are checked and made again, not converted.
        tied: tensors that are compared with what they repeat, and left behind.
        dropped: tensors that are left behind.
        refused: tensors that cannot be converted, with the reason.
        zero_biases: biases that are zero because the format has none.
        stacked: what layers are called that share one tensor, along its first axis.
        slashes: whether names are paths with slashes, for which the rules' spelling has dots.
        files: pairs (name pattern in the rules, name pattern in files), for layouts whose files use other names; the
            first pair that matches is used.
        carried: the name pattern of tensors that match no rule and keep their names in any layout.
        misfits: gives, of shapes by name, the names of those that no model of this layout has, and what it has.
    """

    name: str
    rules: tuple[Rule | GroupedRule, ...]
    spellings: tuple[tuple[str, str], ...] = ()
    constants: tuple[Constant, ...] = ()
    tied: tuple[Tied, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    refused: tuple[Refused, ...] = ()
    zero_biases: tuple[ZeroBias, ...] = ()
    stacked: str | None = None
    slashes: bool = False
    files: tuple[tuple[str, str], ...] = ()
    carried: str | None = None
    misfits: Callable[[Shapes], Iterable[tuple[str, str]]] | None = None

    @cached_property
    def to_hub(self) -> tuple[Move | GroupedMove, ...]:
        """The rules from this layout to the hub."""
        return tuple(move for rule in self.rules for move in rule.to_hub)

    @cached_property
    def from_hub(self) -> tuple[Move | GroupedMove, ...]:
        """The rules from the hub to this layout."""
        return tuple(move.inverse() for move in self.to_hub)

    def canonical(self, name: str) -> str:
        """The spelling of `name` that the rules use."""
        if self.slashes:
            name = name.replace("/", ".")
        for theirs, ours in self.spellings:
            values = NamePattern(theirs).match(name)
            if values is not None:
                name = NamePattern(ours).fill(values)
        return name

    def in_file(self, name: str) -> str:
        """What a file calls the tensor that has this name in the rules' spelling."""
        for ours, theirs in self.files:
            values = NamePattern(ours).match(name)
            if values is not None:
                name = NamePattern(theirs).fill(values)
                break
        return name.replace(".", "/") if self.slashes else name

    def carries(self, name: str) -> bool:
        """Whether a tensor of this name, in the rules' spelling, keeps it in any layout."""
        return self.carried is not None and NamePattern(self.carried).match(name) is not None


def entry_for(name: str, entries: Iterable[Entry]) -> Entry | None:
    """The first of a layout's `constants`, `tied`, `dropped` or `refused` that is about `name`."""
    return next((entry for entry in entries if NamePattern(entry.name).match(name) is not None), None)
