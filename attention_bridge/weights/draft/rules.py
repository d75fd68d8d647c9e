"""Rules with placeholders from rules of single tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from attention_bridge.weights.draft.forms import Concrete, Form
from attention_bridge.weights.joined import JoinedRule
from attention_bridge.weights.layout import AnyMove, AnyRule
from attention_bridge.weights.reordered import ReorderedRule
from attention_bridge.weights.rule import Rule

CLASSES: dict[str, type[Rule | JoinedRule | ReorderedRule]] = {
    "Rule": Rule,
    "JoinedRule": JoinedRule,
    "ReorderedRule": ReorderedRule,
}


class Line(NamedTuple):
    """A rule of a table.

    Attributes:
        theirs: the name pattern in `a`.
        hub: the name pattern in `b`.
        form: the kind of the rule and its other arguments.
        key: key of the choice that the rule rests on; empty for none.
    """

    theirs: str
    hub: str
    form: Form
    key: str

    def rule(self) -> AnyRule:
        """The rule as an object."""
        return CLASSES[self.form.kind](self.theirs, self.hub, **dict(self.form.arguments))  # type: ignore[arg-type]


def lines(concretes: Iterable[tuple[Concrete, str]]) -> list[Line]:
    """The fewest rules for these single tensors: numbers become `{n}`, and leaves of one layer one rule."""
    left = [(_alternatives(each.theirs), _alternatives(each.hub), each.form, key) for each, key in concretes]
    support: dict[tuple[str, str, Form, str], set[int]] = {}
    for index, (theirs, hub, form, key) in enumerate(left):
        for pair in _templates(theirs, hub):
            support.setdefault((*pair, form, key), set()).add(index)
    found: dict[int, Line] = {}
    done: set[int] = set()
    for (theirs, hub, form, key), members in sorted(support.items(), key=lambda item: -len(item[1])):
        fresh = members - done
        if len(fresh) > 1:
            found[min(fresh)] = Line(theirs, hub, form, key)
            done |= fresh
    for index, (theirs, hub, form, key) in enumerate(left):
        if index not in done:
            found[index] = Line(theirs, hub, form, key)
    return _merged([found[index] for index in sorted(found)])


def move_of(concrete: Concrete) -> AnyMove:
    """The move from the tensors of `a` to the tensors of `b`."""
    line = Line(_alternatives(concrete.theirs), _alternatives(concrete.hub), concrete.form, "")
    (move,) = line.rule().to_hub
    return move


def _templates(theirs: str, hub: str) -> list[tuple[str, str]]:
    """All ways to put `{n}` for a number that both names have."""
    found = []
    for one in re.finditer(r"\d+", theirs):
        for other in re.finditer(r"\d+", hub):
            if one.group() == other.group() and not any(
                _inside(*each) for each in ((theirs, one), (hub, other))
            ):
                found.append((_placed(theirs, one), _placed(hub, other)))
    return found


def _inside(text: str, number: re.Match[str]) -> bool:
    """Whether a number is inside a group of alternatives."""
    return text[: number.start()].count("{") > text[: number.start()].count("}")


def _placed(text: str, number: re.Match[str]) -> str:
    return f"{text[: number.start()]}{{n}}{text[number.end() :]}"


def _alternatives(names: Sequence[str]) -> str:
    """Names as one pattern: `a.{q,k,v}.weight`."""
    if len(names) == 1:
        return names[0]
    start = _common(names)
    start = start[: max(start.rfind("."), start.rfind("/")) + 1] if start not in names else ""
    rest = [name[len(start) :] for name in names]
    end = _common([each[::-1] for each in rest])[::-1]
    end = end[
        min((at for at in (end.find("."), end.find("/"), end.find("_")) if at >= 0), default=len(end)) :
    ]
    inner = [each[: len(each) - len(end)] for each in rest]
    if not all(inner):
        inner, end = rest, ""
    return f"{start}{{{','.join(inner)}}}{end}"


def _common(names: Sequence[str]) -> str:
    """The characters that all names begin with."""
    same = [len({*letters}) == 1 for letters in zip(*names, strict=False)]
    return names[0][: same.index(False) if False in same else len(same)]


def _merged(given: list[Line]) -> list[Line]:
    """Rules of equal form whose names differ in the last part alone become one."""
    groups: dict[tuple[str, str, Form, str], list[Line]] = {}
    for line in given:
        whole = (line.theirs, line.hub, line.form, line.key)
        stems = line.theirs.rpartition(".")[0], line.hub.rpartition(".")[0]
        can_join = line.form.kind == "Rule" and all(stems)
        can_join &= not any("{" in name.replace("{n}", "") for name in (line.theirs, line.hub))
        groups.setdefault((*stems, line.form, line.key) if can_join else whole, []).append(line)
    found = []
    for (first, second, form, key), same in groups.items():
        if len(same) == 1:
            found.append(same[0])
            continue
        theirs, hub = (
            [name.rpartition(".")[2] for name in side]
            for side in zip(*((x.theirs, x.hub) for x in same), strict=True)
        )
        if any("{" in name for name in (*theirs, *hub)):
            found += same
        else:
            found.append(Line(f"{first}.{{{','.join(theirs)}}}", f"{second}.{{{','.join(hub)}}}", form, key))
    return found
