"""Rules between single tensors of both sides, before they are written with placeholders.

An `Option` is one way to read a tensor: the order of its axes, the order and the interleaving of the parts of a fused
tensor, and the pairs of features that rotary positions rotate. A `Link` with an option gives a `Concrete` rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import NamedTuple

from attention_bridge.weights.draft.axes import ITEM, Axes, arrangements, composed, inverse, tidy
from attention_bridge.weights.rule import IDENTITY
from attention_bridge.weights.twins.layers import Leaf, Shape

NUMBERS = {2: "two", 3: "three", 4: "four"}
ROWS = {
    "query": "queries",
    "key": "keys",
    "value": "keys",
}  # names of rows; keys and values have the same number
ROPES = (None, "interleaved", "half")  # pairs of features in `a`; those in `b` are the others


class Form(NamedTuple):
    """A kind of rule, with its arguments except the names.

    Attributes:
        kind: "Rule", "JoinedRule" or "ReorderedRule".
        arguments: pairs (argument, value).
    """

    kind: str
    arguments: tuple[tuple[str, str | tuple[int, ...]], ...] = ()


class Concrete(NamedTuple):
    """A rule of single tensors: names on both sides, and the form."""

    theirs: tuple[str, ...]
    hub: tuple[str, ...]
    form: Form


class Option(NamedTuple):
    """One way to read the tensors of a choice.

    Attributes:
        axes: number of the order of the axes, of those that fit; 0 for the plainest.
        layout: axes of the rows of a fused tensor, `k` parts, `h` heads and `d` features, such as "hkd"; empty for one
            part after the other.
        heads: number of heads; 0 if the option does not need it.
        order: position in the fused tensor of each part.
        rope: pairs of features in `a` if they differ from those in `b`, "interleaved" or "half"; None if they agree.
        turned: positions of the parts that rotary positions rotate.
        features: size of a head of tensors that are not fused, if their rotary pairs differ.
    """

    axes: int = 0
    layout: str = ""
    heads: int = 0
    order: tuple[int, ...] = ()
    rope: str | None = None
    turned: tuple[int, ...] = ()
    features: int = 0

    def __str__(self) -> str:
        said = []
        if self.axes:
            said.append("transposed")
        if self.order and self.order != tuple(range(len(self.order))):
            said.append(f"parts in the order {', '.join(map(str, self.order))}")
        if self.layout:
            words = {"k": "parts", "h": "heads", "d": "features"}
            said.append(f"rows ({' '.join(words[letter] for letter in self.layout)})")
        if self.rope:
            said.append(f"{self.rope} rotary pairs")
        return ", ".join(said) or "one part after the other"


@dataclass(frozen=True)
class Piece:
    """A stored tensor of a link, with its shape, and its shape with the rows first."""

    leaf: Leaf
    stored: Shape
    canonical: Shape


@dataclass(frozen=True)
class Link:
    """Tensors of both sides that hold the same numbers.

    Attributes:
        role: the role of the tensors, such as `weight`.
        theirs: the tensors of `a`.
        ours: the tensors of `b`; one of both sides has a single tensor.
        labels: the meaning of each part of a fused tensor, or of the single tensor.
        oriented: whether the order of the axes is known on both sides.
    """

    role: str
    theirs: tuple[Piece, ...]
    ours: tuple[Piece, ...]
    labels: tuple[str | None, ...]
    oriented: bool

    @property
    def is_fused(self) -> bool:
        """Whether one side has several tensors."""
        return len(self.theirs) != len(self.ours)

    def concrete(self, option: Option, axes: Axes) -> Concrete | None:
        """The rule of this option; None if the tensors do not fit it."""
        if not self.is_fused:
            return self._single(option, axes)
        return self._fused(option, axes)

    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        theirs, ours = ([piece.leaf.name for piece in side] for side in (self.theirs, self.ours))
        return tuple(theirs), tuple(ours)

    def patterns(self) -> list[str]:
        """The patterns between two single tensors that fit, the plainest first."""
        (one,), (other,) = self.theirs, self.ours
        found = []
        if one.canonical == other.canonical:
            pattern = composed(one.leaf.pattern, other.leaf.pattern, len(one.canonical))
            found += [] if pattern is None else [pattern]
        if not (self.oriented and found):
            found += arrangements(one.stored, other.stored)
        return [*dict.fromkeys(found)]

    def _single(self, option: Option, axes: Axes) -> Concrete | None:
        theirs, ours = self._names()
        (one,), (other,) = self.theirs, self.ours
        rows = one.canonical[0] if one.canonical else 0
        if self.role not in ("weight", "bias") or not (option.rope or option.order or option.layout):
            patterns = self.patterns()
            if not patterns:
                return None
            return Concrete(
                theirs, ours, _rule(_sized(patterns[min(option.axes, len(patterns) - 1)], one, other, axes))
            )
        turned = option.axes and len(one.canonical) == 2
        if option.rope:
            if rows % option.features or option.features % 2:
                return None
            first, second = _rope_rows(rows // option.features, option.features, option.rope, axes)
            left, right = side(one, first, bool(turned)), side(other, second, False)
            return (
                None if left is None or right is None else Concrete(theirs, ours, _rule(f"{left} -> {right}"))
            )
        count = len(option.order)
        if rows % count:
            return None
        word = NUMBERS[count]
        left, right = side(one, [word, "o"], bool(turned)), side(other, [word, "o"], False)
        if option.layout:
            their_layout, our_layout = option.layout.split(">")
            named = _rows_named(option.heads, rows // count, axes)
            if named is None:
                return None
            given, wanted = (
                [named.get(letter, word) for letter in each] for each in (their_layout, our_layout)
            )
            left, right = side(one, given, bool(turned)), side(other, wanted, False)
        if left is None or right is None:
            return None
        if option.order == tuple(range(count)):
            return Concrete(theirs, ours, _rule(f"{left} -> {right}"))
        arguments = (("pattern", f"{left} -> {right}"), ("axis", word), ("order", option.order))
        return Concrete(theirs, ours, Form("ReorderedRule", arguments))

    def _fused(self, option: Option, axes: Axes) -> Concrete | None:
        """One fused tensor on one side, its parts on the other."""
        is_theirs = len(self.theirs) == 1
        (whole,), parts = (self.theirs, self.ours) if is_theirs else (self.ours, self.theirs)
        order = option.order or tuple(range(len(parts)))
        parts = tuple(parts[order.index(place)] for place in range(len(parts)))  # in the order of the rows
        turned = tuple(order[part] for part in option.turned)
        rows = [piece.canonical[0] for piece in parts]
        rope = (
            option.rope
            if is_theirs or not option.rope
            else {"interleaved": "half", "half": "interleaved"}[option.rope]
        )
        names = tuple(piece.leaf.name for piece in parts)
        is_turned = bool(option.axes) and len(whole.canonical) == 2
        shape = whole.canonical[::-1] if is_turned else whole.canonical
        if shape != (sum(rows), *parts[0].canonical[1:]):
            return None
        if len(set(rows)) > 1:
            form = self._unequal(option, whole, parts, rope, turned, is_turned, axes)
        elif rope:
            form = self._equal_with_rope(option, whole, parts, rope, turned, is_turned, axes)
        else:
            form = self._equal(option, whole, parts, is_turned, axes, is_theirs)
        if form is None:
            return None
        return (
            Concrete((whole.leaf.name,), names, form)
            if is_theirs
            else Concrete(names, (whole.leaf.name,), form)
        )

    def _equal(
        self, option: Option, whole: Piece, parts: Sequence[Piece], turned: bool, axes: Axes, is_theirs: bool
    ) -> Form | None:
        word = NUMBERS[len(parts)]
        named = _rows_named(option.heads, parts[0].canonical[0], axes) if option.heads else None
        atoms = ["o"] if named is None else [named["h"], named["d"]]
        split = _split(parts[0])
        if named is None and len(split) == 2:
            atoms = [axes.name("h", split[0]), axes.name("d", split[1])]
        right = side(parts[0], atoms, False)
        if option.layout == "dk":
            layout = [*atoms, word]
        elif option.layout and named is not None:
            layout = [named.get(letter, word) for letter in option.layout]
        else:
            layout = [word, *atoms]
        left = side(whole, layout, turned)
        if left is None or right is None:
            return None
        pattern = f"{left} -> {word} {right}"
        return _rule(pattern if is_theirs else inverse(pattern))

    def _equal_with_rope(
        self,
        option: Option,
        whole: Piece,
        parts: Sequence[Piece],
        rope: str,
        rotated: Sequence[int],
        turned: bool,
        axes: Axes,
    ) -> Form | None:
        named = _rows_named(option.heads, parts[0].canonical[0], axes)
        if named is None:
            return None
        head, features = named["h"], named["d"]
        word = NUMBERS[len(parts)]
        layout = [named.get(letter, word) for letter in option.layout or "khd"]
        left = side(whole, layout, turned)
        if left is None:
            return None
        plain = " ".join(("", *_others(whole)))
        fused = tidy_rows(f"{left} -> ({word} {head} {features}){plain}")
        patterns = _part_patterns(parts, option.heads, rope, rotated, axes)
        if patterns is None:
            return None
        rows = ", ".join([f"{head} {features}"] * len(parts))
        return _joined(rows, None, fused, patterns)

    def _unequal(
        self,
        option: Option,
        whole: Piece,
        parts: Sequence[Piece],
        rope: str | None,
        rotated: Sequence[int],
        turned: bool,
        axes: Axes,
    ) -> Form | None:
        left = side(whole, ["o"], turned)
        if left is None:
            return None
        fused = tidy_rows(f"{left} -> {' '.join(('o', *_others(whole)))}")
        least = min(piece.canonical[0] for piece in parts)
        if option.heads and least % option.heads:
            return None
        patterns = _part_patterns(
            parts, 0 if not rope else least // option.heads, rope, rotated, axes, by_size=True
        )
        if patterns is None:
            return None
        blocks = max(option.heads, 1) if option.layout else 1  # groups of heads, each with all parts
        order = option.order or tuple(range(len(parts)))
        words = [ROWS.get(self.labels[order.index(place)] or "", "rows") for place in range(len(parts))]
        rows = ", ".join(
            axes.name(word, piece.canonical[0] // blocks) for word, piece in zip(words, parts, strict=True)
        )
        if option.layout:
            return _joined(rows, axes.name("g", option.heads), fused, patterns)
        return _joined(rows, None, fused, patterns)


def _rule(pattern: str) -> Form:
    pattern = tidy_rows(pattern)
    return Form("Rule", () if pattern == IDENTITY else (("pattern", pattern),))


def tidy_rows(pattern: str) -> str:
    """The identity if both sides are equal."""
    left, right = pattern.split(" -> ")
    return IDENTITY if left == right else pattern


def _joined(rows: str, blocks: str | None, fused: str, parts: Sequence[str]) -> Form:
    arguments: list[tuple[str, str | tuple[int, ...]]] = [("rows", rows)]
    arguments += [] if blocks is None else [("blocks", blocks)]
    arguments += [] if fused == IDENTITY else [("fused", fused)]
    if any(part != IDENTITY for part in parts):
        arguments.append(("parts", parts[0] if len(set(parts)) == 1 else ", ".join(parts)))
    return Form("JoinedRule", tuple(arguments))


def _sized(pattern: str, one: Piece, other: Piece, axes: Axes) -> str:
    """The pattern with names of axes that have one size in the whole table, where an axis is cut."""
    left, right = pattern.split(" -> ")
    if pattern == IDENTITY or "(" not in pattern:
        return pattern
    sizes: dict[str, int] = {}
    for text, shape in ((left, one.stored), (right, other.stored)):
        for item, size in zip(ITEM.findall(text), shape, strict=True):
            if not item.startswith("("):
                sizes[item] = size
    inside = [
        name for item in ITEM.findall(pattern) if item.startswith("(") for name in re.findall(r"\w+", item)
    ]
    words = iter(("h", "d", "p", "r", "s", "t"))
    new = {name: axes.name(next(words), sizes[name]) for name in dict.fromkeys(inside) if name in sizes}
    return tidy(re.sub(r"\w+", lambda word: new.get(word.group(), word.group()), pattern))


def _others(piece: Piece) -> list[str]:
    """Names of the axes behind the rows."""
    return ["i", "j", "k", "l"][: len(piece.canonical) - 1]


def _split(piece: Piece) -> list[int]:
    """The sizes of the stored axes that are the rows."""
    if piece.leaf.pattern == IDENTITY:
        return [piece.canonical[0]]
    left, right = piece.leaf.pattern.split(" -> ")
    names = re.findall(r"\w+", ITEM.findall(right)[0])
    items = ITEM.findall(left)
    return [piece.stored[items.index(name)] for name in names] if all(n in items for n in names) else []


def side(piece: Piece, rows: Sequence[str], turned: bool) -> str | None:
    """The axes of a stored tensor, with names for the axes that its rows are made of; None if they do not fit.

    Args:
        piece: the tensor.
        rows: the axes of the rows, in order; one may be several, such as "(two pair)".
        turned: whether rows are the last of two axes, against the tensor's pattern.
    """
    rank = len(piece.canonical)
    others = _others(piece)
    if piece.leaf.pattern == IDENTITY:
        whole = rows[0] if len(rows) == 1 else f"({' '.join(each.strip('()') for each in rows)})"
        return " ".join([*others, whole] if turned and rank == 2 else [whole, *others])
    left, right = piece.leaf.pattern.split(" -> ")
    canonical = [re.findall(r"\w+", item) for item in ITEM.findall(right)]
    if len(canonical) != rank or any(len(names) > 1 for names in canonical[1:]):
        return None
    new = {names[0]: word for names, word in zip(canonical[1:], others, strict=True)}
    first = canonical[0]
    if len(first) == 1:
        new[first[0]] = rows[0] if len(rows) == 1 else f"({' '.join(each.strip('()') for each in rows)})"
    elif len(first) == len(rows):
        new |= dict(zip(first, rows, strict=True))
    else:
        return None
    if turned and rank == 2 and len(first) == 1:
        new = {canonical[0][0]: new[canonical[1][0]], canonical[1][0]: new[canonical[0][0]]}
    return " ".join(new[item] for item in ITEM.findall(left))


def _rows_named(heads: int, rows: int, axes: Axes) -> dict[str, str] | None:
    """Names of the axes of heads and features; None if the rows have no whole heads."""
    if not heads or rows % heads:
        return None
    return {"h": axes.name("h", heads), "d": axes.name("d", rows // heads)}


def _rope_rows(heads: int, features: int, rope: str, axes: Axes) -> tuple[list[str], list[str]]:
    """The axes of the rows of both sides, for queries or keys whose rotary pairs differ."""
    pair = axes.name("pair", features // 2)
    interleaved, half = f"({pair} two)", f"(two {pair})"
    first, second = (interleaved, half) if rope == "interleaved" else (half, interleaved)
    head = [] if heads == 1 else [axes.name("h", heads)]
    return [*head, first], [*head, second]


def _part_patterns(
    parts: Sequence[Piece],
    heads: int,
    rope: str | None,
    rotated: Sequence[int],
    axes: Axes,
    by_size: bool = False,
) -> list[str] | None:
    """The patterns of parts with their rows first; `heads` is the head size if `by_size`."""
    found = []
    for place, part in enumerate(parts):
        rows = part.canonical[0]
        others = " ".join(("", *_others(part)))
        if rope and place in rotated:
            count = rows // heads if by_size else heads
            if rows % count or (rows // count) % 2:
                return None
            first, second = _rope_rows(count, rows // count, rope, axes)
            given = f"({' '.join(each.strip('()') for each in first)})" if len(first) > 1 else first[0]
            right = side(part, second, False)
            left = f"{given}{others}"
        else:
            split = _split(part)
            atoms = ["o"] if len(split) != 2 else [axes.name("h", split[0]), axes.name("d", split[1])]
            right = side(part, atoms, False)
            left = f"{atoms[0] if len(atoms) == 1 else f'({atoms[0]} {atoms[1]})'}{others}"
        if right is None:
            return None
        found.append(tidy_rows(f"{left} -> {right}"))
    return found


def fused_options(
    link: Link, heads: Sequence[int], known: bool, rope: bool, in_order: bool = False
) -> Iterator[Option]:
    """The ways to read a fused tensor whose parts are on the other side; the most usual first.

    Args:
        link: the tensors.
        heads: possible numbers of heads.
        known: whether the parts' order and rows are known, from the type of a layer.
        rope: whether rotary positions may rotate some parts.
        in_order: whether the parts' order is decided elsewhere.
    """
    parts = link.ours if len(link.theirs) == 1 else link.theirs
    rows = [piece.canonical[0] for piece in parts]
    count = len(parts)
    natural = tuple(range(count))
    orders = [natural] if known or in_order else [*permutations(natural)]
    groups = [number for number in heads if number > 1 and all(each % number == 0 for each in rows)]
    layouts: list[tuple[str, int]] = [("", 0)]
    if not known and len(set(rows)) == 1:
        layouts += [("hkd", number) for number in heads if rows[0] % number == 0]
        layouts += [("dk", 0)]  # the same as "hdk"
        layouts += [
            (layout, number) for layout in ("kdh", "dkh", "dhk") for number in heads if rows[0] % number == 0
        ]
    elif not known:
        layouts += [("gkd", number) for number in dict.fromkeys(groups)]
    orientations = (0,) if link.oriented else (0, 1)
    turns: list[tuple[str | None, tuple[int, ...]]] = [(None, ())]
    if rope:
        named = tuple(place for place, word in enumerate(link.labels) if word in ("query", "key"))
        sets = [named] if named else [(0, 1), (0, 2), (1, 2)] if count == 3 else []
        turns += [(each, places) for places in sets for each in ROPES[1:]]
    for (way, places), (layout, number), order, axes in product(turns, layouts, orders, orientations):
        if way is None:
            yield Option(axes, layout, number, order, None, ())
        elif number:
            yield Option(axes, layout, number, order, way, places)
        else:
            whole = "hdk" if layout == "dk" else layout
            yield from (Option(axes, whole, each, order, way, places) for each in heads)


def reorderings(count: int, heads: Sequence[int], rows: int) -> Iterator[Option]:
    """The ways to read a tensor that is fused on both sides; the same order first."""
    yield Option()
    for order in permutations(range(count)):
        if order != tuple(range(count)):
            yield Option(order=order)
    for order in permutations(range(count)):
        for number in heads:
            if rows % (count * number) == 0:
                for layouts in (
                    "khd>hkd",
                    "hkd>khd",
                    "hkd>hkd",
                    "khd>hdk",
                    "hdk>khd",
                    "hdk>hdk",
                    "hkd>hdk",
                    "hdk>hkd",
                ):
                    if order != tuple(range(count)) or len(set(layouts.split(">"))) > 1:
                        yield Option(layout=layouts, heads=number, order=order)
