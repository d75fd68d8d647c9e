"""The decisions of a draft: certain rules, and choices between several.

A `Choice` has options of which one is right for all layers with the same names except for numbers. A `Renaming` says
which layers of `b` are which, where nothing tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from attention_bridge.weights.draft.axes import Axes
from attention_bridge.weights.draft.bundles import Bundle
from attention_bridge.weights.draft.forms import Concrete, Option
from attention_bridge.weights.draft.links import Link
from attention_bridge.weights.draft.rules import move_of
from attention_bridge.weights.placeholders import ghost


@dataclass
class Choice:
    """Tensors that are read in one of several ways.

    Attributes:
        reason: the question, in words, for a mark in the table; empty if the first option is no guess.
        options: the ways, the most usual first.
        links: the tensors.
        neutral: values that make all options equal: "rows" for equal rows, "symmetric" or "constant".
        chosen: number of the option.
    """

    reason: str
    options: list[Option]
    links: list[Link]
    neutral: str
    chosen: int = 0


@dataclass
class Renaming:
    """Layers of `b` that nothing tells apart.

    Attributes:
        groups: the paths of the layers in each module, for all modules alike.
        options: the permutations of a group.
        chosen: number of the option.
    """

    groups: list[tuple[str, ...]]
    options: list[tuple[int, ...]]
    chosen: int = 0

    def name(self, given: str) -> str:
        """The name of a tensor of `b` in place of another."""
        return self.renamed(given, self.options[self.chosen])

    def renamed(self, given: str, order: Sequence[int]) -> str:
        """The name of a tensor with this order of the layers."""
        for group in self.groups:
            for place, path in enumerate(group):
                if given == path or given.startswith((f"{path}.", f"{path}/")):
                    return group[order[place]] + given[len(path) :]
        return given


@dataclass
class Decisions:
    """All rules of a draft.

    Attributes:
        axes: names and sizes of axes.
        certain: links with one reading.
        choices: links with several.
        renamings: layers that nothing tells apart.
        source_left, target_left: layers without a place.
    """

    axes: Axes
    certain: list[Link] = field(default_factory=list)
    choices: dict[str, Choice] = field(default_factory=dict)
    renamings: dict[str, Renaming] = field(default_factory=dict)
    source_left: list[Bundle] = field(default_factory=list)
    target_left: list[Bundle] = field(default_factory=list)

    def concretes(self, links: Sequence[Link] | None = None) -> list[tuple[Concrete, str]]:
        """Rules of single tensors in their present reading, each with the key of its choice or an empty text.

        Args:
            links: the tensors; None for all.
        """
        wanted = None if links is None else {id(link) for link in links}
        pairs = [(link, Option(), "") for link in self.certain]
        for key, choice in self.choices.items():
            pairs += [(link, choice.options[choice.chosen], key) for link in choice.links]
        return [
            (self._of(link, option), key)
            for link, option, key in pairs
            if wanted is None or id(link) in wanted
        ]

    def _of(self, link: Link, option: Option) -> Concrete:
        concrete = link.concrete(option, self.axes)
        assert concrete is not None  # options are tried before they are kept
        return concrete._replace(hub=tuple(map(self.hub, concrete.hub)))

    def hub(self, name: str) -> str:
        """The name in `b` after the renamings."""
        for renaming in self.renamings.values():
            name = renaming.name(name)
        return name


def fits(link: Link, option: Option, axes: Axes) -> Concrete | None:
    """The rule of an option, if it converts the shapes of the tensors of `a` to the shapes in `b`; else None."""
    concrete = link.concrete(option, axes)
    if concrete is None:
        return None
    given = {piece.leaf.name: piece.stored for piece in link.theirs}
    wanted = {piece.leaf.name: piece.stored for piece in link.ours}
    try:
        found = move_of(concrete).apply(
            [ghost(given[x], np.dtype(bool)) for x in concrete.theirs], axes.sizes
        )
    except ValueError:
        return None
    shapes = {name: array.shape for name, array in zip(concrete.hub, found, strict=True)}
    return concrete if shapes == wanted else None


def fitting(options: Iterable[Option], link: Link, axes: Axes) -> list[Option]:
    """The options that give a rule; no two of them give the same one."""
    found: dict[object, Option] = {}
    for option in options:
        trial = Axes()
        trial.sizes.update(axes.sizes)
        concrete = fits(link, option, trial)
        if concrete is not None:
            sizes = tuple(sorted(trial.sizes.items() - axes.sizes.items()))
            found.setdefault((concrete, sizes), option)
    return [*found.values()]
