"""Submodules of two aligned modules that correspond: those that hold corresponding layers."""

from __future__ import annotations

from collections.abc import Iterable

from attention_bridge.weights.twins.alignment import Pair

Path = tuple[str, ...]


def corresponding(
    pairs: Iterable[Pair], source: Iterable[Path], target: Iterable[Path]
) -> list[tuple[Path, Path]]:
    """The pairs of submodules that hold the same layers.

    Of several modules around the same layers all correspond if both models have equally many, else the innermost ones.

    Args:
        pairs: aligned layers.
        source, target: paths of the submodules of each side, from the outside inwards.

    Returns:
        Pairs of paths in the order of `source`.
    """
    numbered = [*enumerate(pairs)]
    sides = []
    for paths, layers in (
        (source, [(number, pair.source.path) for number, pair in numbered]),
        (target, [(number, pair.target.path) for number, pair in numbered]),
    ):
        held: dict[frozenset[int], list[Path]] = {}
        for path in paths:
            inside = frozenset(number for number, other in layers if other[: len(path)] == path)
            if inside:
                held.setdefault(inside, []).append(path)
        sides.append(held)
    ours, theirs = sides
    found: dict[Path, Path] = {}
    for inside, paths in ours.items():
        if inside in theirs:
            others = theirs[inside]
            equal = len(paths) == len(others)
            found |= dict(zip(paths, others, strict=True)) if equal else {paths[-1]: others[-1]}
    return [(path, found[path]) for path in source if path in found]
