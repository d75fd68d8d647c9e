"""Aligned layers as certain rules and as choices between several."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, permutations
from math import factorial

from attention_bridge.errors import InputError, cut
from attention_bridge.weights.draft.aligning import aligned
from attention_bridge.weights.draft.axes import Axes
from attention_bridge.weights.draft.bundles import Bundle
from attention_bridge.weights.draft.choices import Choice, Decisions, Renaming, fits, fitting
from attention_bridge.weights.draft.forms import NUMBERS, ROPES, Option, Piece
from attention_bridge.weights.draft.fusing import join
from attention_bridge.weights.draft.links import Link
from attention_bridge.weights.draft.ways import fused_options, reorderings
from attention_bridge.weights.rule import IDENTITY
from attention_bridge.weights.twins.naming import meaning

MOST = 720  # permutations of one renaming
FUSED_WORDS = re.compile(
    r"qkv|kqv|c_attn|in_proj|kv|gate_up|up_gate|w12|w13|swiglu|glu|query_key_value|fused", re.I
)
QUERY_OR_KEY = re.compile(r"(^|_)(q|k|query|key)(_|$)", re.I)

Heads = Callable[[Link], Sequence[int]]


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
    pairs, unsure, left = aligned(theirs, ours, names)
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
            options = fitting(options, link, found.axes)
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
        options = fitting(options, link, found.axes)
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
            options = fitting(options, link, found.axes)
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
