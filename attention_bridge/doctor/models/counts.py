"""Integers that embeddings are looked up by: buckets of distances, and positions beside padding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Relation(NamedTuple):
    """A relation in words: the mistake as the end of "the port ...", and its cure."""

    mistake: str
    cure: str


def bucketed(port: Array, right: Array) -> Relation | None:
    """Buckets of distances, `(query, key)`, as of T5's relative bias (Raffel et al. 2020); None if they are none."""
    if right.ndim < 2 or min(right.shape[-2:]) < 3:
        return None
    ours, theirs = (_by_distance(x.reshape(-1, *x.shape[-2:])[0]) for x in (port, right))
    if ours is None or theirs is None:
        return None
    sides, wanted = _sides(ours), _sides(theirs)
    if sides != wanted:
        return Relation(
            f"puts distances into {sides} buckets, and the reference into {wanted} ones",
            f"use {wanted} buckets",
        )
    if all(ours.get(-distance) == bucket for distance, bucket in theirs.items() if -distance in ours):
        return Relation("counts distances from key to query", "subtract the query's position from the key's")
    return Relation(
        "puts distances into other buckets than the reference",
        "use its number of buckets and largest distance",
    )


def _by_distance(x: Array) -> dict[int, int] | None:
    """The number for each distance of a key from a query; None if it depends on more than the distance."""
    found: dict[int, int] = {}
    for (query, key), number in np.ndenumerate(x):
        if found.setdefault(key - query, int(number)) != number:
            return None
    return found if len({*found.values()}) > 2 else None


def _sides(table: dict[int, int]) -> str:
    """Whether later keys have buckets of their own."""
    later = {number for distance, number in table.items() if distance >= 0}
    earlier = {number for distance, number in table.items() if distance <= 0}
    return "two-sided" if len(later) > 1 and len(earlier) > 1 else "one-sided"


def padded(port: Array, right: Array) -> Relation | None:
    """Positions that count padding, where the reference gives padding one position (RoBERTa); None if they do not."""
    if right.ndim != 2 or not right.size:
        return None
    pad = int(right.min())
    real = right != pad
    if real.all() or not np.array_equal(right, np.where(real, pad + real.cumsum(1), pad)):
        return None
    if (np.diff(port, axis=1) == 1).all() and (port[:, :1] == port[0, 0]).all():
        return Relation(
            f"counts padding, to which the reference gives the position {pad}", "count the real tokens alone"
        )
    return None
