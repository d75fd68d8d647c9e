"""Description of a conversion in words, tensor by tensor."""

from __future__ import annotations

import re

from attention_bridge.errors import printable
from attention_bridge.weights.report import Report

_ITEM = re.compile(r"\(([^)]*)\)|(\S+)")


def explain(report: Report) -> str:
    """Describe the origin of each tensor and how its axes were moved.

    Args:
        report: report of `convert` or `plan`.

    Returns:
        One line per tensor: its name, the source tensors, then each reshape and transpose.
    """
    lines = [f"From {report.source} to {report.target}:"]
    for match in report.matched:
        steps = "; then ".join(words(pattern) for pattern in match.patterns) or "as it is"
        lines.append(f"{match.target} from {', '.join(match.given)}: {steps}")
    lines += [f"{note.name}: synthesised, {note.reason}" for note in report.synthesised]
    lines += [f"{note.name}: ignored, {note.reason}" for note in report.ignored]
    lines += [
        f"{fault.name}: {fault.fault}, expected {fault.expected or '-'}, given {fault.given or '-'}"
        for fault in report.faults
    ]
    return "\n".join(map(printable, lines))


def words(pattern: str) -> str:
    """An einops pattern in words: "cut axis 0 into (h, d), reorder axes to (e, h, d), join (h, d) into axis 1".

    The arithmetic of a `ScaledRule` and the order of a `ReorderedRule` are returned as they are.

    Raises:
        ValueError: the pattern has no arrow.
    """
    left, arrow, right = pattern.partition(" -> ")
    if pattern.startswith(("times ", "plus ", "take ")):  # of a `ScaledRule` or a `ReorderedRule`
        return pattern
    if not arrow:
        raise ValueError(f"an einops pattern has two sides with ' -> ' between, but got {pattern!r}")
    if "," in pattern:
        return _parts(left)
    given, wanted = _items(left), _items(right)
    steps = [f"cut axis {axis} into ({', '.join(item)})" for axis, item in enumerate(given) if len(item) > 1]
    steps += [f"drop axis {axis}, of length 1" for axis, item in enumerate(given) if item == ["1"]]
    before = [name for item in given for name in item if name != "1"]
    after = [name for item in wanted for name in item if name != "1"]
    if before != after:
        steps.append(
            "transpose" if len(after) == 2 and len(given) == 2 else f"reorder axes to ({', '.join(after)})"
        )
    steps += [
        f"join ({', '.join(item)}) into axis {axis}" for axis, item in enumerate(wanted) if len(item) > 1
    ]
    steps += [f"add axis {axis}, of length 1" for axis, item in enumerate(wanted) if item == ["1"]]
    return ", ".join(steps) or "as it is"


def _items(side: str) -> list[list[str]]:
    """The axes of one side of a pattern, each as a list of axis names."""
    return [(group or name).split() for group, name in _ITEM.findall(side)]


def _parts(left: str) -> str:
    """A pattern with several tensors on one side in words; the rows of queries, keys and values are named so."""
    grouped = "(g n d) ..." in left or "(n q k v)" in left
    if "," in left:
        return (
            "join each group's heads of queries, its key and its value into axis 0, group after group"
            if grouped
            else f"join the rows {left.replace(' ...', '')} into axis 0"
        )
    return (
        "cut axis 0 into groups, and each into its heads of queries, its key and its value"
        if grouped
        else f"cut axis 0 into parts of {left.removesuffix(' ...')} rows"
    )
