"""`Draft`: a proposed layout with its guesses, as an object and as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from attention_bridge.errors import InputError, cut
from attention_bridge.weights.containers import Container, tied_names
from attention_bridge.weights.draft.axes import Axes
from attention_bridge.weights.draft.bundles import COUNTERS
from attention_bridge.weights.draft.choices import Choice, Decisions
from attention_bridge.weights.draft.rules import Line, lines
from attention_bridge.weights.draft.settling import Settled
from attention_bridge.weights.draft.source import python_source, toml_source
from attention_bridge.weights.engine import route
from attention_bridge.weights.layout import Dropped, Layout, Tied
from attention_bridge.weights.layouts.plain import PLAIN
from attention_bridge.weights.leaves import spec
from attention_bridge.weights.placeholders import ghost
from attention_bridge.weights.report import Report


@dataclass(frozen=True)
class Guess:
    """A decision that no name, shape or type makes.

    Attributes:
        rules: the rules that rest on it, as (name pattern in `a`, name pattern in `b`).
        reason: the guess, in words.
        is_settled: whether activations have settled it.
    """

    rules: tuple[tuple[str, str], ...]
    reason: str
    is_settled: bool


@dataclass(frozen=True)
class Draft:
    """A proposed layout; printed, it is Python source to paste.

    Attributes:
        layout: the layout; its names are the names in `a`, its canonical names the names in `b`.
        guesses: the decisions that no name, shape or type makes.
        error: largest difference between the outputs of both models with equal random weights, relative to the
            largest output; None if they were not run.
        agrees: whether the outputs agree; None if they were not run.
        source: Python source of the layout.
        toml: the layout as TOML.
    """

    layout: Layout
    guesses: tuple[Guess, ...]
    error: float | None
    agrees: bool | None
    source: str
    toml: str

    @property
    def open_guesses(self) -> tuple[Guess, ...]:
        """The guesses that activations have not settled."""
        return tuple(each for each in self.guesses if not each.is_settled)

    def __str__(self) -> str:
        return self.source


def written(
    decisions: Decisions,
    spare: Sequence[Tied | Dropped],
    settled: Settled | None,
    containers: tuple[Container, Container],
    name: str,
) -> Draft:
    """The draft of these decisions.

    Args:
        decisions: the decisions, with chosen options.
        spare: tensors of `a` without a counterpart.
        settled: result of the search; None if the models were not run.
        containers: the tensors of both sides.
        name: name of the layout.

    Raises:
        InputError: the rules do not convert the shapes of `a` to the shapes of `b`.
    """
    decisions.axes = Axes()  # with the axes of the chosen options alone
    place = {name: number for number, name in enumerate(containers[0].leaves)}
    table = lines(sorted(decisions.concretes(), key=lambda each: min(place[x] for x in each[0].theirs)))
    inner = _reasons(decisions, settled)
    marks, guesses = {}, []
    for key, (reason, is_settled) in inner.items():
        rules = tuple(
            (line.theirs, line.hub) for line in table if line.key == key or _is_renamed(decisions, key, line)
        )
        if rules:
            guesses.append(Guess(rules, reason, is_settled))
    for line in table:
        said = [
            (r, s) for key, (r, s) in inner.items() if line.key == key or _is_renamed(decisions, key, line)
        ]
        if said:
            open_ones = [reason for reason, is_settled in said if not is_settled]
            mark = f"guess: {'; '.join(open_ones)}" if open_ones else "settled by activations"
            marks[line] = mark
    keyed = [line._replace(key=marks.get(line, "")) for line in table]
    used = {
        axis for line in table for _, value in line.form.arguments for axis in re.findall(r"\w+", str(value))
    }
    sizes = tuple((axis, size) for axis, size in decisions.axes.sizes.items() if axis in used)
    layout = Layout(
        name,
        rules=tuple(line.rule() for line in table),
        tied=tuple(each for each in spare if isinstance(each, Tied)),
        dropped=_numbered([each for each in spare if isinstance(each, Dropped)]),
    )
    needed = layout.needed_axes()
    layout = replace(layout, axes=tuple((axis, size) for axis, size in sizes if axis in needed))
    _check(layout, containers)
    notes = _notes(guesses, settled)
    texts = {mark: mark for mark in marks.values()}
    return Draft(
        layout,
        tuple(guesses),
        None if settled is None else settled.error,
        None if settled is None else settled.agrees,
        python_source(layout, keyed, texts, name.upper(), notes),
        toml_source(layout, keyed, texts, notes),
    )


def _reasons(decisions: Decisions, settled: Settled | None) -> dict[str, tuple[str, bool]]:
    """The reason of each guess, and whether it is settled, by the key of its decision."""
    agrees = settled is not None and settled.agrees
    alike = set() if settled is None else settled.alike
    found = {}
    for key, choice in decisions.choices.items():
        if choice.reason and (len(choice.options) > 1 or settled is None):
            found[key] = _said(choice.reason, choice, agrees, key in alike)
    for key, renaming in decisions.renamings.items():
        names = ", ".join(path.rpartition(".")[2] for path in renaming.groups[0])
        found[key] = _said(f"which layer is which of {names}", None, agrees, key in alike)
    return found


def _said(reason: str, choice: Choice | None, agrees: bool, is_alike: bool) -> tuple[str, bool]:
    if agrees and is_alike:
        return f"{reason}; others give the same outputs", False
    return reason, agrees


def _is_renamed(decisions: Decisions, key: str, line: Line) -> bool:
    """Whether a rule has a layer of a renaming."""
    renaming = decisions.renamings.get(key)
    if renaming is None:
        return False
    endings = {re.sub(r"\d+", "#", path) for group in renaming.groups for path in group}
    hub = re.sub(r"\{n\}|\d+", "#", line.hub)
    names = re.findall(r"\{([^{}]+)\}", hub)
    expanded = [hub] if not names else [hub.replace(f"{{{names[0]}}}", each) for each in names[0].split(",")]
    return any(
        each == path or each.startswith((f"{path}.", f"{path}/")) for each in expanded for path in endings
    )


def _numbered(dropped: Iterable[Dropped]) -> tuple[Dropped, ...]:
    """The entries, with one for all layers."""
    found: dict[tuple[str, str], Dropped] = {}
    for each in dropped:
        name = re.sub(r"\d+", "{n}", each.name, count=1)
        found.setdefault((name, each.reason), Dropped(name, each.reason))
    return tuple(found.values())


def _notes(guesses: Sequence[Guess], settled: Settled | None) -> list[str]:
    open_count = sum(not each.is_settled for each in guesses)
    if settled is None:
        count = f"{open_count} guess" if open_count == 1 else f"{open_count} guesses"
        return [f"{count}, to settle with inputs=." if open_count else "No rule is a guess."]
    if not settled.agrees:
        return [
            "Outputs differ with each table that was tried: the guesses are open, or the models compute different",
            "functions; diagnose finds the difference.",
        ]
    return [
        f"Equal random weights give equal outputs: largest difference {settled.error:.1e} of the largest output."
    ]


def _check(layout: Layout, containers: tuple[Container, Container]) -> None:
    """Raise unless the layout converts the shapes of `a` to the shapes of `b`."""
    given, wanted = ({name: spec(name, leaf) for name, leaf in each.leaves.items()} for each in containers)
    report = Report(layout.name, "plain")
    ghosts = {name: ghost(*each) for name, each in given.items()}
    tied = {each.name for each in layout.tied}
    there = route(
        {n: x for n, x in ghosts.items() if n not in tied}, layout, PLAIN, dict(layout.axes), report
    )
    shapes = {name: item.array.shape for name, item in there.items()}
    aliases = {name for same in tied_names(containers[1].leaves) for name in same}
    wrong = [name for name, shape in shapes.items() if name not in wanted or wanted[name].shape != shape]
    wrong += [
        name for name in wanted if name not in shapes and name not in aliases and not name.endswith(COUNTERS)
    ]
    if report.faults or wrong:
        example = report.faults[0].name if report.faults else wrong[0]
        raise InputError(
            cut(f"draft_layout cannot write a rule for {example}: its names or axes fit no pattern")
        )
