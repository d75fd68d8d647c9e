"""Pairs of layers of both sides, aligned by names, shapes and order; where nothing tells layers apart, in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from attention_bridge.weights.draft.bundles import Bundle
from attention_bridge.weights.twins.alignment import Alignment, Node, align_nodes, tree
from attention_bridge.weights.twins.layers import Layer

Pairs = list[tuple[Bundle, Bundle]]


def aligned(
    theirs: Sequence[Bundle], ours: Sequence[Bundle], names: Mapping[str, str]
) -> tuple[Pairs, list[tuple[str, ...]], tuple[list[Bundle], list[Bundle]]]:
    """Pairs of layers, groups of layers of `b` that nothing tells apart, and layers without a place."""
    best = None
    for exact in (True, False):
        one, other = ({each.path: each for each in side} for side in (theirs, ours))
        views = [[_view(each, exact) for each in side] for side in (theirs, ours)]
        found = _align_all(tree(views[0], names), tree(views[1], {}))
        pairs = [(_by_layer(pair.source, one), _by_layer(pair.target, other)) for pair in found.pairs]
        left = (
            [_by_layer(each, one) for each in found.source_left],
            [_by_layer(each, other) for each in found.target_left],
        )
        groups = [*found.groups]
        count = len(left[0]) + len(left[1])
        if best is None or count < best[0]:
            best = count, pairs, groups, left
        if not count:
            break
    assert best is not None
    return best[1], best[2], best[3]


def _by_layer(layer: Layer, bundles: Mapping[tuple[str, ...], Bundle]) -> Bundle:
    return bundles[layer.path]


def _view(bundle: Bundle, exact: bool) -> Layer:
    """The layer with its shape alone; without `exact`, as if the order of the axes and the kind were unknown."""
    shape, kind = bundle.shape, bundle.kind
    if not exact:
        shape = tuple(sorted(size for size in shape if size != 1))
        kind = {0: "vector", 1: "vector", 2: "matrix"}.get(len(shape), "tensor")
        if len(shape) > 2 or (len(shape) == 2 and bundle.kind in ("convolution", "parameter")):
            shape, kind = (_size(shape),), "tensor" if len(shape) > 2 else "matrix"
            if kind == "matrix":
                shape = tuple(sorted(size for size in bundle.shape if size != 1))
    return Layer(bundle.path, kind, bundle.leaves, {"weight": shape}, bundle.name)


def _size(shape: Iterable[int]) -> int:
    found = 1
    for each in shape:
        found *= each
    return found


@dataclass
class _Found(Alignment):
    groups: list[tuple[str, ...]] = field(default_factory=list)


def _align_all(source: Node, target: Node) -> _Found:
    """Align two trees; modules that nothing tells apart are paired in order, and noted as a group."""
    aligned = align_nodes(source, target)
    found = _Found(
        pairs=[*aligned.pairs], source_left=[*aligned.source_left], target_left=[*aligned.target_left]
    )
    for ones, others in aligned.unsure:
        for one, other in zip(ones, others, strict=False):
            inner = _align_all(one, other)
            found.pairs += inner.pairs
            found.groups += inner.groups
            found.source_left += inner.source_left
            found.target_left += inner.target_left
        if len(others) > 1:
            found.groups.append(tuple(_path_of(node) for node in others))
        found.source_left += [each for node in ones[len(others) :] for each in node.layers()]
        found.target_left += [each for node in others[len(ones) :] for each in node.layers()]
    return found


def _path_of(node: Node) -> str:
    """The path of a module: the path that all of its layers share, of the length that ends in its own name."""
    layers = node.layers()
    first = layers[0].path
    parts = tuple(node.name.split("."))
    for end in range(len(first), 0, -1):
        if first[end - len(parts) : end] == parts and all(each.path[:end] == first[:end] for each in layers):
            return ".".join(first[:end])
    return ".".join(first)
