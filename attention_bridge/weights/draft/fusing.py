"""Layers of one side that are one fused layer on the other side, where the shapes demand it.

A model with a weight of shape (3 e, e) and a model with three of shape (e, e) in one module have the same weights.
The three are joined, so that both models have the same layers and can be aligned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from attention_bridge.weights.draft.bundles import Bundle
from attention_bridge.weights.twins.layers import Leaf, Shape
from attention_bridge.weights.twins.naming import meaning

# Meanings of layers that code fuses, in the order of their rows.
FUSED = (("query", "key", "value"), ("key", "value"), ("gate", "up"))


class Joined(NamedTuple):
    """The bundles of one side after layers are joined.

    Attributes:
        bundles: all bundles, in order.
        open_groups: for each joined bundle whose parts no name tells apart, the paths of all layers that its parts
            could be.
    """

    bundles: list[Bundle]
    open_groups: list[tuple[tuple[str, ...], ...]]


def join(bundles: Sequence[Bundle], others: Sequence[Bundle]) -> Joined:
    """Join layers where the other side has one layer with all of their rows.

    Args:
        bundles: the layers of one side.
        others: the layers of the other side.
    """
    surplus = _counts(others)
    surplus.subtract(_counts(bundles))
    wanted = [each for each in others if each.shape and surplus[_key(each)] > 0 and len(each.shape) == 2]
    taken: set[tuple[str, ...]] = set()
    made: dict[tuple[str, ...], Bundle] = {}
    open_groups: list[tuple[tuple[str, ...], ...]] = []
    spare = _counts(bundles)
    spare.subtract(_counts(others))
    for fused in wanted:
        if surplus[_key(fused)] <= 0:
            continue
        found = next(_candidates(fused, bundles, taken, spare), None)
        if found is None:
            continue
        parts, siblings = found
        surplus[_key(fused)] -= 1
        for part in parts:
            spare[_key(part)] -= 1
            taken.add(part.path)
        if siblings:
            open_groups.append(siblings)
        made[parts[0].path] = _joined(parts)
    kept = [made.get(each.path, each) for each in bundles if each.path in made or each.path not in taken]
    return Joined(kept, open_groups)


def _key(bundle: Bundle) -> tuple[int, ...]:
    """The shape of a layer without the order of its axes."""
    return tuple(sorted(bundle.shape))


def _counts(bundles: Sequence[Bundle]) -> Counter[tuple[int, ...]]:
    return Counter(_key(each) for each in bundles)


def _candidates(
    fused: Bundle,
    bundles: Sequence[Bundle],
    taken: set[tuple[str, ...]],
    spare: Mapping[tuple[int, ...], int],
) -> Iterator[tuple[list[Bundle], tuple[tuple[str, ...], ...]]]:
    """Layers of one module whose rows together are the rows of `fused`; known names first."""
    modules: dict[tuple[str, ...], list[Bundle]] = {}
    for each in bundles:
        if each.path not in taken and len(each.shape) == 2 and each.kind in ("linear", "parameter"):
            modules.setdefault(each.path[:-1], []).append(each)
    shapes = [fused.shape] if fused.oriented else [fused.shape, fused.shape[::-1]]
    for siblings in modules.values():
        named = {meaning(each.path[-1]): each for each in siblings}
        for words in FUSED:
            if named.keys() >= {*words} and _fit([named[word] for word in words], shapes):
                yield [named[word] for word in words], ()
    for siblings in modules.values():
        for count in (3, 2, 4):
            for parts in combinations(siblings, count):
                same = {_key(each) for each in parts}
                if len(same) == 1 and spare[_key(parts[0])] >= count and _fit(list(parts), shapes):
                    alike = [each for each in siblings if each.shape == parts[0].shape]
                    yield list(parts), tuple(each.path for each in alike)


def _fit(parts: list[Bundle], shapes: Sequence[Shape]) -> bool:
    """Whether the parts together have the rows of one of the shapes."""
    if len({tuple(each.groups) for each in parts}) > 1:
        return False
    each_way = [[part.shape] if part.oriented else [part.shape, part.shape[::-1]] for part in parts]
    for shape in shapes:
        rows = 0
        for ways in each_way:
            fitting = [way for way in ways if way[1] == shape[1]]
            if not fitting:
                break
            rows += fitting[0][0]
        else:
            if rows == shape[0]:
                return True
    return False


def _joined(parts: Sequence[Bundle]) -> Bundle:
    labels = tuple(meaning(part.path[-1]) for part in parts)
    name = {("query", "key", "value"): "qkv"}.get(labels, "_".join(part.path[-1] for part in parts))  # type: ignore[arg-type]
    groups: dict[str, tuple[Leaf, ...]] = {
        role: tuple(leaf for part in parts for leaf in part.groups[role]) for role in parts[0].groups
    }
    shapes = {name: shape for part in parts for name, shape in part.shapes.items()}
    oriented = all(part.oriented for part in parts)
    return Bundle((*parts[0].path[:-1], name), parts[0].kind, groups, shapes, labels, oriented)
