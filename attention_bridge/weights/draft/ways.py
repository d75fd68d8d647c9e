"""The ways to read fused tensors, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product

from attention_bridge.weights.draft.forms import ROPES, Option
from attention_bridge.weights.draft.links import Link


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
