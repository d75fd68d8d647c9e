"""Names and sizes of the axes of a drafted table, and einops patterns made of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import permutations

from attention_bridge.weights.rule import IDENTITY
from attention_bridge.weights.twins.layers import Shape

ITEM = re.compile(r"\([^)]*\)|\S+")
WORDS = ("o", "i", "j", "k", "l", "m")


class Axes:
    """Sizes of axes by name; one name has one size."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}

    def name(self, word: str, size: int) -> str:
        """The name of an axis of this size: the word, with a number if the word has another size.

        Heads are `h`; another number of heads is `g`, as for keys and values.
        """
        if word == "h" and self.sizes.setdefault("h", size) != size:
            word = "g"
        number, name = 1, word
        while self.sizes.setdefault(name, size) != size:
            number += 1
            name = f"{word}{number}"
        return name


def inverse(pattern: str) -> str:
    """The pattern with both sides swapped."""
    left, right = pattern.split(" -> ")
    return f"{right} -> {left}"


def composed(theirs: str, ours: str, rank: int) -> str | None:
    """The pattern from one stored tensor to another, from both patterns to the same canonical tensor.

    Args:
        theirs: einops pattern from the one stored tensor to the canonical one.
        ours: einops pattern from the other.
        rank: number of axes of the canonical tensor.

    Returns:
        The pattern; None if both cut an axis of the canonical tensor into different numbers of axes.
    """
    first, second = (_with_names(pattern, rank, letters) for pattern, letters in ((theirs, "a"), (ours, "b")))
    left, right = first[0], second[0]
    for one, other in zip(first[1], second[1], strict=True):
        if len(one) == len(other):
            right = _renamed(right, dict(zip(other, one, strict=True)))
        elif len(one) == 1:
            left = _cut(left, one[0], other)
        elif len(other) == 1:
            right = _cut(right, other[0], one)
        else:
            return None
    return tidy(f"{left} -> {right}")


def _with_names(pattern: str, rank: int, prefix: str) -> tuple[str, list[list[str]]]:
    """The stored side of a pattern, and the axes in each canonical axis, all with unique names."""
    if pattern == IDENTITY:
        names = [f"{prefix}{number}" for number in range(rank)]
        return " ".join(names), [[name] for name in names]
    left, right = pattern.split(" -> ")
    found = dict.fromkeys(re.findall(r"\w+", left))
    new = {name: f"{prefix}{number}" for number, name in enumerate(found)}
    items = [re.findall(r"\w+", item) for item in ITEM.findall(right)]
    return _renamed(left, new), [[new[name] for name in item] for item in items]


def _renamed(side: str, names: dict[str, str]) -> str:
    return re.sub(r"\w+", lambda word: names.get(word.group(), word.group()), side)


def _cut(side: str, name: str, parts: Sequence[str]) -> str:
    """The side with an axis that is cut into parts."""
    items = [
        item.replace(name, " ".join(parts)) if item.startswith("(") else f"({' '.join(parts)})"
        for item in ITEM.findall(side)
        if name in re.findall(r"\w+", item)
    ]
    return " ".join(items.pop(0) if name in re.findall(r"\w+", item) else item for item in ITEM.findall(side))


def tidy(pattern: str) -> str:
    """The pattern with short names of axes; the identity if nothing moves."""
    left, right = pattern.split(" -> ")
    if left == right:
        return IDENTITY
    names = [*dict.fromkeys(re.findall(r"\w+", right))]
    if any(not re.fullmatch(r"[ab]\d+", name) for name in names):
        return pattern
    if len(names) == 2 and len(ITEM.findall(left)) == 2:
        words = dict(
            zip(names, ("o", "i") if ITEM.findall(right)[0] == names[0] else ("i", "o"), strict=True)
        )
    else:
        words = dict(zip(names, WORDS, strict=False))
    return f"{_renamed(left, words)} -> {_renamed(right, words)}"


def arrangements(theirs: Shape, ours: Shape) -> Iterator[str]:
    """All patterns from one shape to another that reorder, join, cut, add and drop axes; the plainest first.

    Axes are joined or cut only on one of both sides, and dropped or added only with length 1.
    """
    if len(theirs) == len(ours):
        for order in permutations(range(len(theirs))):
            if tuple(theirs[axis] for axis in order) == ours:
                yield _permuted(order)
        if tuple(sorted(theirs)) == tuple(sorted(ours)):
            return
    if len(theirs) < len(ours):
        yield from (inverse(pattern) for pattern in arrangements(ours, theirs))
        return
    given = [axis for axis, size in enumerate(theirs) if size != 1]
    if len(given) < len(theirs):
        kept = tuple(theirs[axis] for axis in given)
        if kept == ours:
            names = iter(WORDS)
            left = ["1" if size == 1 else next(names) for size in theirs]
            yield f"{' '.join(left)} -> {' '.join(each for each in left if each != '1')}"
            return
    if len(theirs) > 4:
        return
    for order in permutations(range(len(theirs))):
        for groups in _groupings([*order], [theirs[axis] for axis in order], [*ours]):
            words = WORDS[: len(theirs)]
            right = " ".join(
                words[group[0]] if len(group) == 1 else f"({' '.join(words[axis] for axis in group)})"
                for group in groups
            )
            yield f"{' '.join(words)} -> {right}"


def _permuted(order: Sequence[int]) -> str:
    if [*order] == [*range(len(order))]:
        return IDENTITY
    if len(order) == 2:
        return "i o -> o i"
    return f"{' '.join(WORDS[: len(order)])} -> {' '.join(WORDS[axis] for axis in order)}"


def _groupings(order: list[int], sizes: list[int], ours: list[int]) -> Iterator[list[list[int]]]:
    """The ways to join axes in order so that their sizes are `ours`."""
    if not ours:
        if not order:
            yield []
        return
    product = 1
    for count in range(1, len(order) + 1):
        product *= sizes[count - 1]
        if product == ours[0]:
            for rest in _groupings(order[count:], sizes[count:], ours[1:]):
                yield [order[:count], *rest]
