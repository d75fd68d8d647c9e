"""The decisions of a draft: aligned layers as certain rules, and as choices between several.

A `Choice` has options of which one is right for all layers with the same names except for numbers. A `Renaming` says
which layers of `b` are which, where nothing tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, permutations
from math import factorial

import numpy as np

from attention_bridge.errors import InputError, cut
from attention_bridge.weights.draft.axes import Axes
from attention_bridge.weights.draft.bundles import Bundle
from attention_bridge.weights.draft.forms import (
    NUMBERS,
    ROPES,
    Concrete,
    Link,
    Option,
    Piece,
    fused_options,
    reorderings,
)
from attention_bridge.weights.draft.fusing import join
from attention_bridge.weights.draft.rules import move_of
from attention_bridge.weights.placeholders import ghost
from attention_bridge.weights.rule import IDENTITY
from attention_bridge.weights.twins.alignment import Alignment, Node, align_nodes, tree
from attention_bridge.weights.twins.layers import Layer
from attention_bridge.weights.twins.naming import meaning

MOST = 720  # permutations of one renaming
FUSED_WORDS = re.compile(
    r"qkv|kqv|c_attn|in_proj|kv|gate_up|up_gate|w12|w13|swiglu|glu|query_key_value|fused", re.I
)
QUERY_OR_KEY = re.compile(r"(^|_)(q|k|query|key)(_|$)", re.I)

Heads = Callable[[Link], Sequence[int]]


@dataclass
class Choice:
    """Tensors that are read in one of several ways.

    Attributes:
        reason: the question, in words, for a mark in the table; empty if the first option is no guess.
        options: the ways, the most usual first.
        links: the tensors.
        neutral: values that make all options equal: "rows" for equal rows, "symmetric" or "constant".
        chosen: number of the option.
    """

    reason: str
    options: list[Option]
    links: list[Link]
    neutral: str
    chosen: int = 0


@dataclass
class Renaming:
    """Layers of `b` that nothing tells apart.

    Attributes:
        groups: the paths of the layers in each module, for all modules alike.
        options: the permutations of a group.
        chosen: number of the option.
    """

    groups: list[tuple[str, ...]]
    options: list[tuple[int, ...]]
    chosen: int = 0

    def name(self, given: str) -> str:
        """The name of a tensor of `b` in place of another."""
        return self.renamed(given, self.options[self.chosen])

    def renamed(self, given: str, order: Sequence[int]) -> str:
        """The name of a tensor with this order of the layers."""
        for group in self.groups:
            for place, path in enumerate(group):
                if given == path or given.startswith((f"{path}.", f"{path}/")):
                    return group[order[place]] + given[len(path) :]
        return given


@dataclass
class Decisions:
    """All rules of a draft.

    Attributes:
        axes: names and sizes of axes.
        certain: links with one reading.
        choices: links with several.
        renamings: layers that nothing tells apart.
        source_left, target_left: layers without a place.
    """

    axes: Axes
    certain: list[Link] = field(default_factory=list)
    choices: dict[str, Choice] = field(default_factory=dict)
    renamings: dict[str, Renaming] = field(default_factory=dict)
    source_left: list[Bundle] = field(default_factory=list)
    target_left: list[Bundle] = field(default_factory=list)

    def concretes(self, links: Sequence[Link] | None = None) -> list[tuple[Concrete, str]]:
        """Rules of single tensors in their present reading, each with the key of its choice or an empty text.

        Args:
            links: the tensors; None for all.
        """
        wanted = None if links is None else {id(link) for link in links}
        pairs = [(link, Option(), "") for link in self.certain]
        for key, choice in self.choices.items():
            pairs += [(link, choice.options[choice.chosen], key) for link in choice.links]
        return [
            (self._of(link, option), key)
            for link, option, key in pairs
            if wanted is None or id(link) in wanted
        ]

    def _of(self, link: Link, option: Option) -> Concrete:
        concrete = link.concrete(option, self.axes)
        assert concrete is not None  # options are tried before they are kept
        return concrete._replace(hub=tuple(map(self.hub, concrete.hub)))

    def hub(self, name: str) -> str:
        """The name in `b` after the renamings."""
        for renaming in self.renamings.values():
            name = renaming.name(name)
        return name


def decide(
    theirs: Sequence[Bundle], ours: Sequence[Bundle], names: Mapping[str, str], heads: Heads, deep: bool
) -> Decisions:
    """Align two models' layers, and list the ways to read their tensors.

    Args:
        theirs: the layers of `a`.
        ours: the layers of `b`.
        names: names of modules of `a` and the names in `b`, as in `transfer`.
        heads: function of a link that returns its possible numbers of heads.
        deep: whether to list also ways that are unusual, for a search that tries them.
    """
    ours_joined = join(ours, theirs)
    theirs_joined = join(theirs, ours_joined.bundles)
    theirs, ours = theirs_joined.bundles, ours_joined.bundles
    pairs, unsure, left = _aligned(theirs, ours, names)
    found = Decisions(Axes(), source_left=left[0], target_left=left[1])
    for paths in ours_joined.open_groups:
        _rename(found, [".".join(path) for path in paths])
    for group in unsure:
        _rename(found, group)
    for one, other in pairs:
        _decide(found, one, other, heads, deep)
    for choice in found.choices.values():
        choice.options = [
            option
            for option in choice.options
            if all(fits(link, option, Axes()) is not None for link in choice.links)
        ]
    _prefer_transposed(found)
    return found


def _prefer_transposed(found: Decisions) -> None:
    """Put the transposed order of square matrices first if most other matrices of unknown order are transposed."""
    known = [
        link.theirs[0].canonical != link.ours[0].canonical
        for link in found.certain
        if not link.oriented and len(link.theirs[0].stored) == 2 and len(link.ours[0].stored) == 2
    ]
    if 2 * sum(known) > len(known):
        for choice in found.choices.values():
            if choice.neutral == "symmetric":
                choice.options.reverse()


Pairs = list[tuple[Bundle, Bundle]]


def _aligned(
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


def _rename(found: Decisions, paths: Sequence[str]) -> None:
    """Note layers that nothing tells apart; in all modules of a list they are permuted alike."""
    group = tuple(paths)
    above = [path.rpartition(".") for path in group]
    key = (
        " ".join(sorted({_abstract(parent) for parent, _, _ in above}))
        + " "
        + " ".join(name for *_, name in above)
    )
    if len(group) > 1 and len({path.rpartition(".")[0] for path in group}) > 1:
        key = " ".join(map(_abstract, group))
    known = found.renamings.get(key)
    if known is not None:
        if group not in known.groups:
            known.groups.append(group)
        return
    taken = {path for each in found.renamings.values() for one in each.groups for path in one}
    if taken & {*group}:
        return
    options = list(islice(permutations(range(len(group))), min(MOST, factorial(min(len(group), 7)))))
    found.renamings[key] = Renaming([group], options)


def _abstract(path: str) -> str:
    return re.sub(r"\d+", "#", path)


def _decide(found: Decisions, one: Bundle, other: Bundle, heads: Heads, deep: bool) -> None:
    """Put the tensors of a pair of layers among the certain ones, or give them a choice."""
    if one.groups.keys() != other.groups.keys():
        _refuse_roles(one, other)
    for role in one.groups:
        for link in _links(role, one, other):
            _put(found, link, one, other, heads, deep)


def _refuse_roles(one: Bundle, other: Bundle) -> None:
    extra = [*(one.groups.keys() ^ other.groups.keys())]
    holder, lacking = (one, other) if extra[0] in one.groups else (other, one)
    named = ", ".join(leaf.name for leaf in holder.groups[extra[0]])
    raise InputError(
        cut(
            f"draft_layout expects the same tensors in layers that correspond, but {named} has no counterpart in "
            f"{lacking.name}: build both models with the same options"
        )
    )


def _links(role: str, one: Bundle, other: Bundle) -> Iterator[Link]:
    theirs, ours = (
        tuple(Piece(leaf, side.shapes[leaf.name], side.canonical(leaf)) for leaf in side.groups[role])
        for side in (one, other)
    )
    labels = one.labels or other.labels
    oriented = one.oriented and other.oriented
    if len(theirs) == len(ours):
        said = one.labels if any(one.labels) else other.labels
        for place, (left, right) in enumerate(zip(theirs, ours, strict=True)):
            label = said[place] if len(theirs) > 1 else _label(one) or _label(other)
            yield Link(role, (left,), (right,), (label,), oriented)
    elif 1 in (len(theirs), len(ours)):
        parts = other.labels if len(theirs) == 1 else one.labels
        yield Link(role, theirs, ours, tuple(parts or labels), oriented)
    else:
        raise InputError(f"draft_layout cannot tell how {one.name} and {other.name} share their tensors")


def _label(bundle: Bundle) -> str | None:
    word = meaning(bundle.path[-1]) if bundle.path else None
    if bundle.kind in ("norm",) and bundle.path and QUERY_OR_KEY.search(bundle.path[-1]):
        return "norm"
    return word if word in ("query", "key", "value") else None


def _put(found: Decisions, link: Link, one: Bundle, other: Bundle, heads: Heads, deep: bool) -> None:
    above = _abstract(".".join(one.path[:-1]))
    if link.is_fused:
        fused = one if len(link.theirs) == 1 else other
        known = bool(fused.labels)
        key = f"fused {_abstract(one.name)}"
        if key not in found.choices:
            open_paths = {
                path for each in found.renamings.values() for group in each.groups for path in group
            }
            in_order = any(
                piece.leaf.name == path or piece.leaf.name.startswith(f"{path}.")
                for piece in link.ours
                for path in open_paths
            )
            options = [*fused_options(link, heads(link) if deep else (), known, deep, in_order)]
            options = _fitting(options, link, found.axes)
            options = options if deep else options[:1]
            words = ", ".join(str(word) for word in link.labels) if any(link.labels) else "its parts"
            reason = "" if known else f"the order of {words} in {fused.path[-1]}"
            found.choices[key] = Choice(reason, options, [], "rows" if link.oriented else "constant")
        choice = found.choices[key]
        if not choice.options:
            raise InputError(f"draft_layout finds no order of axes for {one.name} and {other.name}")
        choice.links.append(link)
        return
    patterns = link.patterns()
    if not patterns:
        shapes = " and ".join(f"{side[0].leaf.name} {side[0].stored}" for side in (link.theirs, link.ours))
        raise InputError(f"draft_layout finds no order of axes for {shapes}")
    label = link.labels[0]
    rows = link.theirs[0].canonical[0] if link.theirs[0].canonical else 0
    if (
        deep
        and label in ("query", "key", "norm")
        and len(link.theirs[0].canonical) <= 2
        and link.role in ("weight", "bias")
    ):
        key = f"rotary {above}"
        ways = range(len(patterns)) if len(link.theirs[0].canonical) == 2 else range(1)
        options = [Option(axes) for axes in ways]
        if link.theirs[0].canonical == link.ours[0].canonical:
            options += [
                Option(axes, rope=rope, features=rows // number)
                for rope in ROPES[1:]
                for number in heads(link)
                for axes in ways
                if rows % number == 0
            ]
        options = _fitting(options, link, found.axes)
        unsure = len(patterns) > 1 and len(link.theirs[0].canonical) == 2
        if key not in found.choices or len(options) > len(found.choices[key].options):
            old = found.choices.get(key)
            links = [] if old is None else old.links
            reason = "the order of the axes of a square matrix" if unsure else ""
            found.choices[key] = Choice(reason, options, links, "constant" if unsure else "rows")
        found.choices[key].links.append(link)
        return
    count = _fused_on_both(one, other)
    if count and rows % count == 0 and link.role in ("weight", "bias") and not one.labels:
        key = f"both {_abstract(one.name)}"
        if key not in found.choices:
            options = [*reorderings(count, heads(link) if count == 3 else (), rows)] if deep else [Option()]
            options = _fitting(options, link, found.axes)
            reason = f"the same order of the {NUMBERS[count]} parts of {one.path[-1]} and {other.path[-1]}"
            found.choices[key] = Choice(reason, options, [], "rows" if link.oriented else "constant")
        found.choices[key].links.append(link)
        return
    if len(patterns) == 1:
        found.certain.append(link)
        return
    key = f"axes {_abstract(one.name)} {link.role}"
    symmetric = sorted(patterns) == sorted((IDENTITY, "i o -> o i")) or len(patterns) == 2
    if key not in found.choices:
        first = link.theirs[0]
        last = ".".join(first.leaf.name.split(".")[-2:])
        reason = f"the order of the axes of {last} {first.stored}"
        mode = "symmetric" if symmetric and len(first.stored) == len(link.ours[0].stored) == 2 else "constant"
        found.choices[key] = Choice(reason, [Option(axes) for axes in range(len(patterns))], [], mode)
    found.choices[key].links.append(link)


def _fused_on_both(one: Bundle, other: Bundle) -> int:
    """The number of parts of a layer that is fused on both sides, from its names and its shape; 0 for none."""
    if len(one.shape) != 2 or one.kind == "embedding" or other.kind == "embedding":
        return 0
    words = [re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", each.path[-1]) for each in (one, other) if each.path]
    if not any(FUSED_WORDS.search(word) or meaning(word) == "fused" for word in words):
        return 0
    rows, inputs = max(one.shape), min(one.shape)
    if rows == 3 * inputs:
        return 3
    return 2 if rows % 2 == 0 and rows != inputs else 0


def fits(link: Link, option: Option, axes: Axes) -> Concrete | None:
    """The rule of an option, if it converts the shapes of the tensors of `a` to the shapes in `b`; else None."""
    concrete = link.concrete(option, axes)
    if concrete is None:
        return None
    given = {piece.leaf.name: piece.stored for piece in link.theirs}
    wanted = {piece.leaf.name: piece.stored for piece in link.ours}
    try:
        found = move_of(concrete).apply(
            [ghost(given[x], np.dtype(bool)) for x in concrete.theirs], axes.sizes
        )
    except ValueError:
        return None
    shapes = {name: array.shape for name, array in zip(concrete.hub, found, strict=True)}
    return concrete if shapes == wanted else None


def _fitting(options: Iterable[Option], link: Link, axes: Axes) -> list[Option]:
    """The options that give a rule; no two of them give the same one."""
    found: dict[object, Option] = {}
    for option in options:
        trial = Axes()
        trial.sizes.update(axes.sizes)
        concrete = fits(link, option, trial)
        if concrete is not None:
            sizes = tuple(sorted(trial.sizes.items() - axes.sizes.items()))
            found.setdefault((concrete, sizes), option)
    return [*found.values()]
