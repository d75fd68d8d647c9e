"""Decisions of a draft that are settled by running both models with equal weights.

Both models get the same random weights, through the drafted rules, and the same input. For one decision at a time, all
tensors of the other decisions have values that make their options equal, such as equal rows or a symmetric matrix, so
the outputs agree for the right option of this decision alone, wherever it is in the model. At the end, all weights are
random: only outputs that agree then settle the draft.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from math import prod
from typing import Any

import numpy as np

from attention_bridge.weights.draft.choices import Choice, Decisions, Renaming
from attention_bridge.weights.draft.forms import Concrete, Piece
from attention_bridge.weights.draft.links import Link
from attention_bridge.weights.draft.rules import move_of
from attention_bridge.weights.draft.running import Arrays, Run, difference
from attention_bridge.weights.layout import AnyMove

MOST_TRIALS = 6000  # of one search
MOST_CHECKS = 40  # other options of a settled decision that are tried
TOLERANCE = {"float16": 3e-2, "bfloat16": 1e-1}

Decision = Choice | Renaming


@dataclass
class Settled:
    """The result of a search.

    Attributes:
        error: difference between the outputs with the chosen options, relative to the largest output.
        agrees: whether the outputs agree.
        alike: keys of decisions whose other options also give equal outputs.
    """

    error: float
    agrees: bool
    alike: set[str] = field(default_factory=set)


class Search:
    """A search for the options with which both models agree.

    Args:
        decisions: the decisions; their options are chosen in place.
        theirs: function of arrays by name that returns the outputs of `a`.
        ours: function of arrays by name that returns the outputs of `b`.
        specs: dtype of each tensor of `b`.
        their_specs: dtype of each tensor of `a`.
        is_ours_fixed: whether `b` keeps its values while options are tried, and `a` is run again.
    """

    def __init__(
        self,
        decisions: Decisions,
        theirs: Run,
        ours: Run,
        specs: Mapping[str, np.dtype[Any]],
        their_specs: Mapping[str, np.dtype[Any]],
        is_ours_fixed: bool,
    ) -> None:
        self.decisions, self.theirs, self.ours = decisions, theirs, ours
        self.specs, self.their_specs, self.is_ours_fixed = specs, their_specs, is_ours_fixed
        names = {dtype.name for dtype in (*specs.values(), *their_specs.values())}
        self.tolerance = max([TOLERANCE[name] for name in names if name in TOLERANCE], default=1e-4)
        self.moves: dict[Concrete, AnyMove] = {}

    def settle(self) -> Settled:
        """Choose the options with which the outputs agree, if there are any."""
        decisions = self._decisions()
        error = self._error({})
        if error > self.tolerance:
            self._eliminate(decisions, most=1)
            error = self._error({})
        if error > self.tolerance:
            self._eliminate(decisions, most=MOST_TRIALS)
            error = self._error({})
        if error > self.tolerance:
            error = self._product(decisions)
        if error > self.tolerance:
            return Settled(error, False)
        return Settled(error, True, self._alike(decisions))

    def _decisions(self) -> dict[str, Decision]:
        found: dict[str, Decision] = {
            key: each for key, each in self.decisions.choices.items() if len(each.options) > 1
        }
        return found | dict(self.decisions.renamings.items())

    def _eliminate(self, decisions: Mapping[str, Decision], most: int) -> None:
        """Settle each decision while the options of all that are open are equal.

        Args:
            decisions: all decisions.
            most: number of options with which the outputs agree after which no others are tried; 1 takes the first.
        """
        open_keys = dict.fromkeys(decisions)
        while open_keys:
            several = []
            before = len(open_keys)
            for key in [*open_keys]:
                decision = decisions[key]
                others = {each: decisions[each] for each in open_keys if each != key}
                survivors = self._survivors(decision, others, most)
                if survivors:
                    decision.chosen = survivors[0]
                if len(survivors) == 1:
                    del open_keys[key]
                elif survivors:
                    several.append(key)
            if len(open_keys) == before:  # the first of several options, which the last comparison tests
                if not several:
                    return
                del open_keys[several[0]]

    def _survivors(self, decision: Decision, neutral: Mapping[str, Decision], most: int) -> list[int]:
        before = decision.chosen
        trials = self._trials(neutral, [decision], [(each,) for each in range(len(decision.options))])
        found = [number[0] for number in islice(trials, most)]
        decision.chosen = before
        return found

    def _product(self, decisions: Mapping[str, Decision]) -> float:
        """Try all options of all decisions together, as many as can be tried."""
        every = [*decisions.values()]
        if not every:
            return float("inf")
        ways = [range(len(each.options)) for each in every]
        if prod(map(len, ways)) > MOST_TRIALS:
            return float("inf")
        before = [each.chosen for each in every]
        for chosen in self._trials({}, every, product(*ways)):
            for each, number in zip(every, chosen, strict=True):
                each.chosen = number
            return self._error({})
        for each, number in zip(every, before, strict=True):
            each.chosen = number
        return float("inf")

    def _alike(self, decisions: Mapping[str, Decision]) -> set[str]:
        """The decisions whose other options give other rules and equal outputs."""
        found = set()
        for key, decision in decisions.items():
            if isinstance(decision, Choice) and not decision.reason:
                continue
            before = decision.chosen
            others = [(each,) for each in range(len(decision.options)) if self._differs(decision, each)]
            if any(True for _ in self._trials({}, [decision], others[:MOST_CHECKS])):
                found.add(key)
            decision.chosen = before
        return found

    def _differs(self, decision: Decision, number: int) -> bool:
        """Whether an option may give another function.

        Without rotary positions, features of queries and keys can be permuted alike, which changes no output.
        """
        if number == decision.chosen:
            return False
        if isinstance(decision, Renaming):
            return True
        return not (decision.options[number].rope and not decision.options[decision.chosen].rope)

    def _trials(
        self, neutral: Mapping[str, Decision], decisions: Sequence[Decision], options: Any
    ) -> Iterator[tuple[int, ...]]:
        """The options of these decisions for which the outputs agree."""
        fixed = self._values(neutral)
        before = [each.chosen for each in decisions]
        if self.is_ours_fixed:
            values, reference = fixed, self.ours(fixed)
        else:
            values = self._moved(fixed, back=True)
            reference = self.theirs(values)
        links = [link for each in decisions if isinstance(each, Choice) for link in each.links]
        is_part = all(isinstance(each, Choice) for each in decisions)
        given: dict[str, np.ndarray] = {}
        for chosen in islice(options, MOST_TRIALS):
            for each, number in zip(decisions, chosen, strict=True):
                each.chosen = number
            given |= self._moved(values, back=self.is_ours_fixed, links=links if given and is_part else None)
            found = (self.theirs if self.is_ours_fixed else self.ours)(given)
            if difference(reference, found) <= self.tolerance:
                yield chosen
        for each, number in zip(decisions, before, strict=True):
            each.chosen = number

    def _error(self, neutral: Mapping[str, Decision]) -> float:
        fixed = self._values(neutral)
        return difference(self.theirs(self._moved(fixed, back=True)), self.ours(fixed))

    def _moved(
        self, values: Arrays, *, back: bool, links: Sequence[Link] | None = None
    ) -> dict[str, np.ndarray]:
        """The values of the other side through the rules as they are now; of some links, or of all."""
        found: dict[str, np.ndarray] = {}
        axes = self.decisions.axes.sizes
        specs = self.their_specs if back else self.specs
        for concrete, _ in self.decisions.concretes(links):
            move = self._move(concrete)
            given, wanted = (concrete.hub, concrete.theirs) if back else (concrete.theirs, concrete.hub)
            results = (move.inverse() if back else move).apply([values[name] for name in given], axes)
            found |= {name: x.astype(specs[name]) for name, x in zip(wanted, results, strict=True)}
        return found

    def _move(self, concrete: Concrete) -> AnyMove:
        if concrete not in self.moves:
            self.moves[concrete] = move_of(concrete)
        return self.moves[concrete]

    def _values(self, neutral: Mapping[str, Decision]) -> dict[str, np.ndarray]:
        """Random values of the tensors of `b`; where a decision is neutral, they make its options equal."""
        links = [
            *self.decisions.certain,
            *(x for each in self.decisions.choices.values() for x in each.links),
        ]
        found: dict[str, np.ndarray] = {}
        for link in links:
            for piece in link.ours:
                name = self.decisions.hub(piece.leaf.name)
                found[name] = random_values(name, piece.stored)
        for key, decision in neutral.items():
            if isinstance(decision, Choice):
                for link in decision.links:
                    for piece in link.ours:
                        name = self.decisions.hub(piece.leaf.name)
                        found[name] = _stored(piece, neutral_values(key, link, piece, decision.neutral))
        for decision in neutral.values():
            if isinstance(decision, Renaming):
                for group in decision.groups:
                    _make_equal(found, group)
        return {name: x.astype(self.specs[name]) for name, x in found.items()}


def random_values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random numbers for a tensor, the same in each call; vectors are positive, for variances and scales."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) < 2:
        return rng.uniform(0.4, 1.6, shape)
    return rng.standard_normal(shape) * 1.5 / np.sqrt(prod(shape) / max(shape))


def neutral_values(key: str, link: Link, piece: Piece, mode: str) -> np.ndarray:
    """Values, with the rows first, that make all options of a choice equal."""
    shape = piece.canonical
    word = re.sub(r"\d+", "#", key) + link.role
    if mode == "symmetric":
        square = random_values(word, shape)
        return (square + square.T) / 2
    if mode == "rows" and len(shape) > 1:
        return np.broadcast_to(random_values(word, (1, *shape[1:])), shape)
    return np.full(shape, 0.7 / np.sqrt(max(prod(shape[1:]), 1)))


def _stored(piece: Piece, canonical: np.ndarray) -> np.ndarray:
    """The stored tensor, from its values with the rows first."""
    parts = np.split(canonical, len(piece.leaf.roles))
    return piece.leaf.stored(dict(zip(piece.leaf.roles, parts, strict=True)), piece.stored)


def _make_equal(values: dict[str, np.ndarray], group: Sequence[str]) -> None:
    """Give all layers of a group the values of the first."""
    first = group[0]
    for path in group[1:]:
        for name in [*values]:
            if name == path or name.startswith((f"{path}.", f"{path}/")):
                other = first + name[len(path) :]
                if other in values:
                    values[name] = values[other]
