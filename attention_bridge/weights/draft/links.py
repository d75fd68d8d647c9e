"""Tensors of both sides that hold the same numbers; with an option, a link gives a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attention_bridge.weights.draft.axes import Axes, arrangements, composed, inverse
from attention_bridge.weights.draft.forms import (
    NUMBERS,
    ROWS,
    Concrete,
    Form,
    Option,
    Piece,
    behind_rows,
    heads_and_features,
    joined_form,
    part_patterns,
    plain_form,
    rope_rows,
    row_sizes,
    side,
    tidy_rows,
    with_sizes,
)


@dataclass(frozen=True)
class Link:
    """Tensors of both sides that hold the same numbers.

    Attributes:
        role: the role of the tensors, such as `weight`.
        theirs: the tensors of `a`.
        ours: the tensors of `b`; one of both sides has a single tensor.
        labels: the meaning of each part of a fused tensor, or of the single tensor.
        oriented: whether the order of the axes is known on both sides.
    """

    role: str
    theirs: tuple[Piece, ...]
    ours: tuple[Piece, ...]
    labels: tuple[str | None, ...]
    oriented: bool

    @property
    def is_fused(self) -> bool:
        """Whether one side has several tensors."""
        return len(self.theirs) != len(self.ours)

    def concrete(self, option: Option, axes: Axes) -> Concrete | None:
        """The rule of this option; None if the tensors do not fit it."""
        if not self.is_fused:
            return self._single(option, axes)
        return self._fused(option, axes)

    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        theirs, ours = ([piece.leaf.name for piece in side] for side in (self.theirs, self.ours))
        return tuple(theirs), tuple(ours)

    def patterns(self) -> list[str]:
        """The patterns between two single tensors that fit, the plainest first."""
        (one,), (other,) = self.theirs, self.ours
        found = []
        if one.canonical == other.canonical:
            pattern = composed(one.leaf.pattern, other.leaf.pattern, len(one.canonical))
            found += [] if pattern is None else [pattern]
        if not (self.oriented and found):
            found += arrangements(one.stored, other.stored)
        return [*dict.fromkeys(found)]

    def _single(self, option: Option, axes: Axes) -> Concrete | None:
        theirs, ours = self._names()
        (one,), (other,) = self.theirs, self.ours
        rows = one.canonical[0] if one.canonical else 0
        if self.role not in ("weight", "bias") or not (option.rope or option.order or option.layout):
            patterns = self.patterns()
            if not patterns:
                return None
            return Concrete(
                theirs,
                ours,
                plain_form(with_sizes(patterns[min(option.axes, len(patterns) - 1)], one, other, axes)),
            )
        turned = option.axes and len(one.canonical) == 2
        if option.rope:
            if rows % option.features or option.features % 2:
                return None
            first, second = rope_rows(rows // option.features, option.features, option.rope, axes)
            left, right = side(one, first, bool(turned)), side(other, second, False)
            return (
                None
                if left is None or right is None
                else Concrete(theirs, ours, plain_form(f"{left} -> {right}"))
            )
        count = len(option.order)
        if rows % count:
            return None
        word = NUMBERS[count]
        left, right = side(one, [word, "o"], bool(turned)), side(other, [word, "o"], False)
        if option.layout:
            their_layout, our_layout = option.layout.split(">")
            named = heads_and_features(option.heads, rows // count, axes)
            if named is None:
                return None
            given, wanted = (
                [named.get(letter, word) for letter in each] for each in (their_layout, our_layout)
            )
            left, right = side(one, given, bool(turned)), side(other, wanted, False)
        if left is None or right is None:
            return None
        if option.order == tuple(range(count)):
            return Concrete(theirs, ours, plain_form(f"{left} -> {right}"))
        arguments = (("pattern", f"{left} -> {right}"), ("axis", word), ("order", option.order))
        return Concrete(theirs, ours, Form("ReorderedRule", arguments))

    def _fused(self, option: Option, axes: Axes) -> Concrete | None:
        """One fused tensor on one side, its parts on the other."""
        is_theirs = len(self.theirs) == 1
        (whole,), parts = (self.theirs, self.ours) if is_theirs else (self.ours, self.theirs)
        order = option.order or tuple(range(len(parts)))
        parts = tuple(parts[order.index(place)] for place in range(len(parts)))  # in the order of the rows
        turned = tuple(order[part] for part in option.turned)
        rows = [piece.canonical[0] for piece in parts]
        rope = (
            option.rope
            if is_theirs or not option.rope
            else {"interleaved": "half", "half": "interleaved"}[option.rope]
        )
        names = tuple(piece.leaf.name for piece in parts)
        is_turned = bool(option.axes) and len(whole.canonical) == 2
        shape = whole.canonical[::-1] if is_turned else whole.canonical
        if shape != (sum(rows), *parts[0].canonical[1:]):
            return None
        if len(set(rows)) > 1:
            form = self._unequal(option, whole, parts, rope, turned, is_turned, axes)
        elif rope:
            form = self._equal_with_rope(option, whole, parts, rope, turned, is_turned, axes)
        else:
            form = self._equal(option, whole, parts, is_turned, axes, is_theirs)
        if form is None:
            return None
        return (
            Concrete((whole.leaf.name,), names, form)
            if is_theirs
            else Concrete(names, (whole.leaf.name,), form)
        )

    def _equal(
        self, option: Option, whole: Piece, parts: Sequence[Piece], turned: bool, axes: Axes, is_theirs: bool
    ) -> Form | None:
        word = NUMBERS[len(parts)]
        named = heads_and_features(option.heads, parts[0].canonical[0], axes) if option.heads else None
        atoms = ["o"] if named is None else [named["h"], named["d"]]
        split = row_sizes(parts[0])
        if named is None and len(split) == 2:
            atoms = [axes.name("h", split[0]), axes.name("d", split[1])]
        right = side(parts[0], atoms, False)
        if option.layout == "dk":
            layout = [*atoms, word]
        elif option.layout and named is not None:
            layout = [named.get(letter, word) for letter in option.layout]
        else:
            layout = [word, *atoms]
        left = side(whole, layout, turned)
        if left is None or right is None:
            return None
        pattern = f"{left} -> {word} {right}"
        return plain_form(pattern if is_theirs else inverse(pattern))

    def _equal_with_rope(
        self,
        option: Option,
        whole: Piece,
        parts: Sequence[Piece],
        rope: str,
        rotated: Sequence[int],
        turned: bool,
        axes: Axes,
    ) -> Form | None:
        named = heads_and_features(option.heads, parts[0].canonical[0], axes)
        if named is None:
            return None
        head, features = named["h"], named["d"]
        word = NUMBERS[len(parts)]
        layout = [named.get(letter, word) for letter in option.layout or "khd"]
        left = side(whole, layout, turned)
        if left is None:
            return None
        plain = " ".join(("", *behind_rows(whole)))
        fused = tidy_rows(f"{left} -> ({word} {head} {features}){plain}")
        patterns = part_patterns(parts, option.heads, rope, rotated, axes)
        if patterns is None:
            return None
        rows = ", ".join([f"{head} {features}"] * len(parts))
        return joined_form(rows, None, fused, patterns)

    def _unequal(
        self,
        option: Option,
        whole: Piece,
        parts: Sequence[Piece],
        rope: str | None,
        rotated: Sequence[int],
        turned: bool,
        axes: Axes,
    ) -> Form | None:
        left = side(whole, ["o"], turned)
        if left is None:
            return None
        fused = tidy_rows(f"{left} -> {' '.join(('o', *behind_rows(whole)))}")
        least = min(piece.canonical[0] for piece in parts)
        if option.heads and least % option.heads:
            return None
        patterns = part_patterns(
            parts, 0 if not rope else least // option.heads, rope, rotated, axes, by_size=True
        )
        if patterns is None:
            return None
        blocks = max(option.heads, 1) if option.layout else 1  # groups of heads, each with all parts
        order = option.order or tuple(range(len(parts)))
        words = [ROWS.get(self.labels[order.index(place)] or "", "rows") for place in range(len(parts))]
        rows = ", ".join(
            axes.name(word, piece.canonical[0] // blocks) for word, piece in zip(words, parts, strict=True)
        )
        if option.layout:
            return joined_form(rows, axes.name("g", option.heads), fused, patterns)
        return joined_form(rows, None, fused, patterns)
