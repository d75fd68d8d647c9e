"""The axis of a weight that is the input of its layer, in any layout, from the layout's own rules.

The factor B of a low-rank update has the outputs of the weight, and its rank in place of the inputs. A rule that keeps
the input axis whole therefore converts B as it converts the weight; lora_A stays as it is.
"""

from __future__ import annotations

from attention_bridge.weights.layout import Layout, entry_for


def input_axis(layout: Layout, name: str) -> int | None:
    """The input axis of a weight: 1 for (out, in), 0 for (in, out), as in `Conv1D`.

    Args:
        layout: layout that names the weight.
        name: name of the weight.

    Returns:
        The axis; None if no rule matches, or if the rule splits or reorders the inputs.
    """
    canonical = layout.canonical(name)
    for move in layout.to_hub:
        if move.match(canonical) is not None and (axis := axis_of(move.pattern)) is not None:
            return axis
    return None


def is_dropped(name: str, layout: Layout) -> bool:
    """Whether a weight is part of a head that models of this layout lack."""
    spelled = layout.canonical(name)
    return not layout.moves(spelled) and entry_for(spelled, layout.unused) is not None


def axis_of(pattern: str) -> int | None:
    """The input axis on the left side of an einops pattern whose right side ends in the inputs.

    >>> axis_of("i (three o) -> three o i"), axis_of("(h three d) e -> three (h d) e")
    (0, 1)
    """
    left, right = (_axes(side.partition(",")[0]) for side in pattern.split(" -> "))
    if not right or right[-1] not in left or right[-1].startswith("("):
        return None
    axis = left.index(right[-1])
    return 1 if right[-1] == "..." else axis if len(left) == 2 else None


def _axes(side: str) -> list[str]:
    """The axes of one side of a pattern; a group in parentheses is one axis."""
    axes, depth = [""], 0
    for letter in side.strip():
        depth += (letter == "(") - (letter == ")")
        if letter == " " and depth == 0:
            axes.append("")
        else:
            axes[-1] += letter
    return axes
