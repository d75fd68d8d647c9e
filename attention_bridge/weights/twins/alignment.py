"""Pairs of layers of two modules that hold the same weights.

Siblings align by equal names, then by kinds and shapes that only one of each side holds, then by the meanings or the
numbers in their names. Modules that only wrap others are opened. Several possible pairs are a fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from attention_bridge.errors import Fault, InputError
from attention_bridge.weights.twins.layers import Layer, Shape
from attention_bridge.weights.twins.naming import meaning, number

Signature = frozenset[tuple[tuple[str, Shape], int]]


class Pair(NamedTuple):
    """Two layers that hold the same weights."""

    source: Layer
    target: Layer


@dataclass
class Alignment:
    """Aligned layers, and the faults of the others.

    Attributes:
        pairs: aligned layers.
        faults: layers that fit several places.
        unsure: modules of both sides that hold the same kinds and shapes and that nothing tells apart.
        source_left, target_left: layers that fit no place.
    """

    pairs: list[Pair] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unsure: list[tuple[list[Node], list[Node]]] = field(default_factory=list)
    source_left: list[Layer] = field(default_factory=list)
    target_left: list[Layer] = field(default_factory=list)


@dataclass
class Node:
    """A module in the tree of a model: the layer that it is, if any, and the modules that it holds."""

    name: str
    layer: Layer | None = None
    inside: dict[str, Node] = field(default_factory=dict)

    def layers(self) -> list[Layer]:
        """All layers, from the outside inwards."""
        own = [] if self.layer is None else [self.layer]
        return own + [each for node in self.inside.values() for each in node.layers()]

    def signature(self) -> Signature:
        """The kinds and shapes of all layers, with their counts."""
        return frozenset(Counter(each.signature for each in self.layers()).items())


def align(source: Iterable[Layer], target: Iterable[Layer], names: Mapping[str, str]) -> Alignment:
    """Align the layers of two modules.

    Args:
        source, target: the layers in the order of their definition.
        names: names of the source's modules or paths, and the target's names for them.
    """
    return align_nodes(tree(source, names), tree(target, {}))


def align_nodes(source: Node, target: Node) -> Alignment:
    """Align the layers of two trees of modules."""
    found = Alignment()
    _align(source, target, found)
    return found


def tree(layers: Iterable[Layer], names: Mapping[str, str]) -> Node:
    """The tree of modules, with names replaced.

    Raises:
        InputError: two layers then have one name.
    """
    root = Node("")
    for each in layers:
        node = root
        path = renamed(each.path, names)
        for part in path:
            node = node.inside.setdefault(part, Node(part))
        if node.layer is not None:
            raise InputError(f"names must give each module a name of its own, got {'.'.join(path)!r} twice")
        node.layer = each
    return root


def renamed(path: tuple[str, ...], names: Mapping[str, str]) -> tuple[str, ...]:
    """The path with the parts that `names` replaces; a dotted name is a part of a path."""
    given = {tuple(theirs.split(".")): ours.split(".") for theirs, ours in names.items()}
    found: list[str] = []
    while path:
        fits = [each for each in given if path[: len(each)] == each]
        longest = max(fits, key=len, default=path[:1])
        found += given.get(longest, longest)
        path = path[len(longest) :]
    return tuple(found)


def _align(source: Node, target: Node, found: Alignment) -> None:
    source, target = _bared(source, target), _bared(target, source)
    if source.layer is not None and target.layer is not None:
        found.pairs.append(Pair(source.layer, target.layer))
    else:
        found.source_left += [] if source.layer is None else [source.layer]
        found.target_left += [] if target.layer is None else [target.layer]
    ours, theirs = [*source.inside.values()], [*target.inside.values()]
    while True:
        for match in (_by_name, _by_content, _by_words):
            _take(match, ours, theirs, found)
        if not ours or not theirs:
            break
        if not (_open(ours, theirs) or _open(theirs, ours)):
            break
    _take(_by_name_alone, ours, theirs, found)
    _ambiguous(ours, theirs, found)
    found.source_left += [each for node in ours for each in node.layers()]
    found.target_left += [each for node in theirs for each in node.layers()]


def _bared(node: Node, other: Node) -> Node:
    """The only layer that a module holds, if the other module is a layer of the same kind and shape."""
    inner = node
    while inner.layer is None and other.layer is not None and len(inner.inside) == 1:
        (inner,) = inner.inside.values()
    same = (
        inner.layer is not None and other.layer is not None and inner.layer.signature == other.layer.signature
    )
    return inner if same else node


Match = Callable[[list[Node], list[Node]], list[tuple[Node, Node]]]


def _take(match: Match, ours: list[Node], theirs: list[Node], found: Alignment) -> None:
    """Align the pairs that `match` finds, and remove them from both lists."""
    for one, other in match(ours, theirs):
        ours.remove(one)
        theirs.remove(other)
        _align(one, other, found)


def _by_name(ours: list[Node], theirs: list[Node]) -> list[tuple[Node, Node]]:
    """Modules of equal names, kinds and shapes; where names count from another number, of equal ranks."""
    pairs: list[tuple[Node, Node]] = []
    for one, other in _groups(ours, theirs):
        for stem in dict.fromkeys(map(_stem, one)):
            nodes, others = ([each for each in side if _stem(each) == stem] for side in (one, other))
            if {each.name for each in nodes} == {each.name for each in others} or not _numbered(
                nodes + others
            ):
                pairs += _by_name_alone(nodes, others)
            elif len(nodes) == len(others):
                pairs += _by_rank(nodes, others)
    return pairs


def _by_name_alone(ours: list[Node], theirs: list[Node]) -> list[tuple[Node, Node]]:
    others = {each.name: each for each in theirs}
    return [(each, others[each.name]) for each in ours if each.name in others]


def _by_content(ours: list[Node], theirs: list[Node]) -> list[tuple[Node, Node]]:
    """The only modules of each side that hold these kinds and shapes."""
    groups = _groups(ours, theirs)
    return [(one[0], other[0]) for one, other in groups if len(one) == len(other) == 1]


def _by_words(ours: list[Node], theirs: list[Node]) -> list[tuple[Node, Node]]:
    """Modules that hold the same kinds and shapes, told apart by the meanings or the numbers in all of their names."""
    pairs: list[tuple[Node, Node]] = []
    for one, other in _groups(ours, theirs):
        if len(one) != len(other):
            continue
        said, heard = ({meaning(_word(each.name)): each for each in nodes} for nodes in (one, other))
        if None not in said and said.keys() == heard.keys() and len(said) == len(one):
            pairs += [(said[each], heard[each]) for each in said]
        elif all(_numbered(nodes) and len({*map(_stem, nodes)}) == 1 for nodes in (one, other)):
            pairs += _by_rank(one, other)
    return pairs


def _groups(ours: list[Node], theirs: list[Node]) -> list[tuple[list[Node], list[Node]]]:
    """The modules of both sides that hold the same kinds and shapes."""
    found: dict[Signature, tuple[list[Node], list[Node]]] = {}
    for side, nodes in enumerate((ours, theirs)):
        for node in nodes:
            found.setdefault(node.signature(), ([], []))[side].append(node)
    return [(one, other) for one, other in found.values() if one and other]


def _word(name: str) -> str:
    """The last part of a name that is not a number."""
    parts = [part for part in name.split(".") if not part.isdigit()]
    return parts[-1] if parts else name


def _stem(node: Node) -> str:
    """The name without the number at its end."""
    return node.name.rstrip("0123456789")


def _numbered(nodes: list[Node]) -> bool:
    """Whether all names end in a number."""
    return all(number(each.name) is not None for each in nodes)


def _by_rank(ours: list[Node], theirs: list[Node]) -> list[tuple[Node, Node]]:
    """Modules in the order of the numbers in their names."""
    ranked = (sorted(nodes, key=lambda node: number(node.name) or 0) for nodes in (ours, theirs))
    return [*zip(*ranked, strict=True)]


def _open(nodes: list[Node], others: list[Node]) -> bool:
    """Replace modules by those that they hold, where this lets something align; whether it did."""
    for node in nodes:
        if node.layer is not None or not node.inside:
            continue
        opened = [Node(f"{node.name}.{each.name}", each.layer, each.inside) for each in node.inside.values()]
        trial = [*(each for each in nodes if each is not node), *opened]
        if any(each in opened for match in (_by_content, _by_words) for each, _ in match(trial, others)):
            nodes[:] = trial
            return True
    return False


def _ambiguous(ours: list[Node], theirs: list[Node], found: Alignment) -> None:
    """Name the modules that fit several places, which then count as neither missing nor unexpected."""
    for one, other in _groups(ours, theirs):
        found.unsure.append((one, other))
        places = ", ".join(sorted(layer.name for node in other for layer in node.layers()[:1]))
        for node in one:
            name = node.layers()[0].name if node.layer is None else node.layer.name
            found.faults.append(Fault(name, "ambiguous", f"a name for one of {places}, in names={{...}}", ""))
            ours.remove(node)
        for node in other:
            theirs.remove(node)
