"""Layouts: tables that convert an outside format's tensors to the canonical layout and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from attention_bridge.weights.grouped import GroupedMove, GroupedRule
from attention_bridge.weights.joined import JoinedMove, JoinedRule
from attention_bridge.weights.names import pattern
from attention_bridge.weights.reordered import ReorderedMove, ReorderedRule
from attention_bridge.weights.rule import Move, Rule
from attention_bridge.weights.scaled import ScaledMove, ScaledRule
from attention_bridge.weights.stacked import first

# Prefixes of models that DataParallel, torch.compile or PEFT has wrapped, and of state dicts in a training checkpoint.
WRAPPED = re.compile(r"^((state_dict|model_state_dict|module|_orig_mod|base_model\.model)\.)+")

# Prefixes that trainers put before all names of a model, and before the names of an average of its weights.
TRAINED = re.compile(r"^(model|net|network|state_dict|model_state_dict|module|_orig_mod)\.")
AVERAGED = re.compile(r"^(ema|ema_model|model_ema|ema_state_dict|shadow|shadow_params)\.")


@dataclass(frozen=True)
class Constant:
    """A tensor of the outside layout that carries no information: it always equals `value(shape)`."""

    name: str
    value: Callable[[tuple[int, ...]], np.ndarray]
    reason: str


@dataclass(frozen=True)
class Tied:
    """A tensor of the outside layout that duplicates another of its tensors (tied weights)."""

    name: str
    to: str
    reason: str


@dataclass(frozen=True)
class Dropped:
    """A tensor of the outside layout that conversion drops, because it carries no information: it is recomputed."""

    name: str
    reason: str


@dataclass(frozen=True)
class Unused:
    """A tensor of the outside layout that another model of the family has, such as another task head.

    Conversion drops it if no rule has its name.
    """

    name: str
    reason: str


# Tensors beside a model in a trainer's file.
TRAINERS = tuple(
    Unused(f"{name}.{{rest}}", "the state of a trainer, not part of the model")
    for name in (
        "optimizer",
        "optimizer_state_dict",
        "optim",
        "scheduler",
        "lr_scheduler",
        "scaler",
        "rng_state",
    )
)


@dataclass(frozen=True)
class Refused:
    """A tensor of the outside layout that affects the output and that the canonical layout cannot represent."""

    name: str
    reason: str


@dataclass(frozen=True)
class ZeroBias:
    """A bias that only the canonical layout has: zeros, one for each row of its `weight`."""

    bias: str
    weight: str
    reason: str


@dataclass(frozen=True)
class Renamed:
    """Names of the tensors of single layers that no name pattern can express, such as pairs of layers.

    Attributes:
        enter: function of a name in the outside layout that returns its name in the rules.
        leave: its inverse.
    """

    enter: Callable[[str], str]
    leave: Callable[[str], str]


Shapes = Mapping[str, tuple[int, ...]]
AnyMove = Move | GroupedMove | JoinedMove | ReorderedMove | ScaledMove
AnyRule = Rule | GroupedRule | JoinedRule | ReorderedRule | ScaledRule
Entry = TypeVar("Entry", Constant, Tied, Dropped, Unused, Refused)


@dataclass(frozen=True)
class Layout:
    """The tensor names and axis order of one outside format.

    Args:
        name: name of the layout, as users type it.
        rules: conversion rules; the first whose names and shapes fit is used, in both directions.
        spellings: pairs (alternative name pattern, name pattern that the rules use); all that match are applied, in
            order.
        constants: tensors of a known constant value, which are checked on input and synthesised on output.
        tied: tensors that must equal the tensor that they duplicate, and are not converted.
        dropped: tensors that are not converted.
        unused: tensors that are not converted unless a rule has their name.
        refused: tensors that cannot be converted, with the reason.
        zero_biases: biases that the outside format lacks and that are therefore zero.
        stacked: name of the module list, `layers` or `experts`, whose modules share one tensor, stacked along one
            axis; the rules name the tensors of single modules; None for none.
        stacked_axis: the axis of a stacked tensor along which its modules are stacked.
        renamed: names of single layers in the outside layout and in the rules, if they differ; None for equal names.
        slashes: whether names are separated by slashes; the rules use dots.
        files: pairs (name pattern in the rules, name pattern in files), for layouts whose files use other names; the
            first pair that matches is used.
        carried: name pattern of tensors that match no rule and keep their names in any layout; None for none.
        misfits: function of shapes by name that yields the names of tensors with an impossible shape, each with the
            expected shape; None for no such check.
        axes: pairs (axis, size) for axes whose sizes the shapes do not give and that are the same in all files.
    """

    name: str
    rules: tuple[AnyRule, ...]
    spellings: tuple[tuple[str, str], ...] = ()
    constants: tuple[Constant, ...] = ()
    tied: tuple[Tied, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    unused: tuple[Unused, ...] = ()
    refused: tuple[Refused, ...] = ()
    zero_biases: tuple[ZeroBias, ...] = ()
    stacked: str | None = None
    stacked_axis: int = 0
    renamed: Renamed | None = None
    slashes: bool = False
    files: tuple[tuple[str, str], ...] = ()
    carried: str | None = None
    misfits: Callable[[Shapes], Iterable[tuple[str, str]]] | None = None
    axes: tuple[tuple[str, int], ...] = ()

    @cached_property
    def to_hub(self) -> tuple[AnyMove, ...]:
        """The moves from this layout to the canonical layout."""
        return tuple(move for rule in self.rules for move in rule.to_hub)

    @cached_property
    def from_hub(self) -> tuple[AnyMove, ...]:
        """The moves from the canonical layout to this layout."""
        return tuple(move.inverse() for move in self.to_hub)

    def moves(self, name: str) -> bool:
        """Whether a rule has this name, in the rules' spelling."""
        name = name if self.stacked is None else first(name, self.stacked)
        name = name if self.renamed is None else self.renamed.enter(name)
        return any(move.match(name) is not None for move in self.to_hub)

    def has(self, name: str) -> bool:
        """Whether the layout understands this name, in the rules' spelling."""
        entries = (self.constants, self.tied, self.dropped, self.unused, self.refused)
        return self.moves(name) or any(entry_for(name, each) is not None for each in entries)  # type: ignore[type-var]

    def within(self, path: str) -> Layout:
        """The layout of the same tensors for a module that holds the model at `path`, such as `backbone`."""
        return replace(
            self,
            rules=tuple(rule.within(path) for rule in self.rules),
            zero_biases=tuple(
                ZeroBias(f"{path}.{each.bias}", f"{path}.{each.weight}", each.reason)
                for each in self.zero_biases
            ),
        )

    def with_copies_alone(self, names: Iterable[str]) -> Layout:
        """The layout of a file that has, of two tied tensors, only the copy, which is then read as the other."""
        spelled = {self.canonical(name) for name in names}
        alone = {e.to: e for e in self.tied[::-1] if e.name in spelled and e.to not in spelled}
        return replace(
            self,
            spellings=(*self.spellings, *((each.name, each.to) for each in alone.values())),
            tied=tuple(each for each in self.tied if each not in alone.values()),
        )

    def needed_axes(self) -> set[str]:
        """The axes whose sizes shapes do not give, in either direction."""
        return {axis for move in (*self.to_hub, *self.from_hub) for axis in move.unknown_axes({})}

    def canonical(self, name: str) -> str:
        """The spelling of `name` that the rules use.

        A trainer's prefix, such as `model.` or `ema.`, is removed if the layout does not have the name otherwise.
        """
        if self.slashes:
            name = name.replace("/", ".")
        spelled = self._spelled(name)
        rest = name
        while found := TRAINED.match(rest) or AVERAGED.match(rest):
            if self.has(spelled):
                return spelled
            rest = rest[found.end() :]
            spelled = self._spelled(rest)
        return spelled if rest == name or self.has(spelled) else self._spelled(name)

    def _spelled(self, name: str) -> str:
        if self.name.startswith("hf."):
            name = WRAPPED.sub("", name)
        for theirs, ours in self.spellings:
            values = pattern(theirs).match(name)
            if values is not None:
                name = pattern(ours).fill(values)
        return name

    def in_file(self, name: str) -> str:
        """The name in a file of the tensor that has this name in the rules' spelling."""
        for ours, theirs in self.files:
            values = pattern(ours).match(name)
            if values is not None:
                name = pattern(theirs).fill(values)
                break
        return name.replace(".", "/") if self.slashes else name

    def carries(self, name: str) -> bool:
        """Whether a tensor of this name, in the rules' spelling, keeps its name in any layout."""
        return self.carried is not None and pattern(self.carried).match(name) is not None


def entry_for(name: str, entries: Iterable[Entry]) -> Entry | None:
    """The first of a layout's `constants`, `tied`, `dropped`, `unused` or `refused` that matches `name`, or None."""
    return next((entry for entry in entries if pattern(entry.name).match(name) is not None), None)
