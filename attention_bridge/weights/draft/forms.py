"""Rules between single tensors of both sides, before they are written with placeholders, and their einops patterns.

An `Option` is one way to read a tensor: the order of its axes, the order and the interleaving of the parts of a fused
tensor, and the pairs of features that rotary positions rotate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from attention_bridge.weights.draft.axes import ITEM, Axes, tidy
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


def plain_form(pattern: str) -> Form:
    """A `Rule` with this pattern."""
    pattern = tidy_rows(pattern)
    return Form("Rule", () if pattern == IDENTITY else (("pattern", pattern),))


def tidy_rows(pattern: str) -> str:
    """The identity if both sides are equal."""
    left, right = pattern.split(" -> ")
    return IDENTITY if left == right else pattern


def joined_form(rows: str, blocks: str | None, fused: str, parts: Sequence[str]) -> Form:
    """A `JoinedRule` with these arguments, except the ones that change nothing."""
    arguments: list[tuple[str, str | tuple[int, ...]]] = [("rows", rows)]
    arguments += [] if blocks is None else [("blocks", blocks)]
    arguments += [] if fused == IDENTITY else [("fused", fused)]
    if any(part != IDENTITY for part in parts):
        arguments.append(("parts", parts[0] if len(set(parts)) == 1 else ", ".join(parts)))
    return Form("JoinedRule", tuple(arguments))


def with_sizes(pattern: str, one: Piece, other: Piece, axes: Axes) -> str:
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


def behind_rows(piece: Piece) -> list[str]:
    """Names of the axes behind the rows."""
    return ["i", "j", "k", "l"][: len(piece.canonical) - 1]


def row_sizes(piece: Piece) -> list[int]:
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
    others = behind_rows(piece)
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


def heads_and_features(heads: int, rows: int, axes: Axes) -> dict[str, str] | None:
    """Names of the axes of heads and features; None if the rows have no whole heads."""
    if not heads or rows % heads:
        return None
    return {"h": axes.name("h", heads), "d": axes.name("d", rows // heads)}


def rope_rows(heads: int, features: int, rope: str, axes: Axes) -> tuple[list[str], list[str]]:
    """The axes of the rows of both sides, for queries or keys whose rotary pairs differ."""
    pair = axes.name("pair", features // 2)
    interleaved, half = f"({pair} two)", f"(two {pair})"
    first, second = (interleaved, half) if rope == "interleaved" else (half, interleaved)
    head = [] if heads == 1 else [axes.name("h", heads)]
    return [*head, first], [*head, second]


def part_patterns(
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
        others = " ".join(("", *behind_rows(part)))
        if rope and place in rotated:
            count = rows // heads if by_size else heads
            if rows % count or (rows // count) % 2:
                return None
            first, second = rope_rows(count, rows // count, rope, axes)
            given = f"({' '.join(each.strip('()') for each in first)})" if len(first) > 1 else first[0]
            right = side(part, second, False)
            left = f"{given}{others}"
        else:
            split = row_sizes(part)
            atoms = ["o"] if len(split) != 2 else [axes.name("h", split[0]), axes.name("d", split[1])]
            right = side(part, atoms, False)
            left = f"{atoms[0] if len(atoms) == 1 else f'({atoms[0]} {atoms[1]})'}{others}"
        if right is None:
            return None
        found.append(tidy_rows(f"{left} -> {right}"))
    return found
