"""A drafted layout as text: Python source to paste, or TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from attention_bridge.weights.draft.rules import Line
from attention_bridge.weights.layout import Layout

WIDTH = 110


def python_source(
    layout: Layout, lines: Sequence[Line], marks: Mapping[str, str], name: str, notes: Sequence[str]
) -> str:
    """The layout as Python source.

    Args:
        layout: the layout.
        lines: its rules.
        marks: comment for the key of a choice.
        name: name of the constant.
        notes: lines of the comment above it.
    """
    used = {"Layout", *(line.form.kind for line in lines)}
    used |= {type(each).__name__ for each in (*layout.tied, *layout.dropped)}
    head = f"from attention_bridge.weights import {', '.join(sorted(used))}"
    text = [
        head,
        "",
        *(f"# {note}" for note in notes),
        f"{name} = Layout(",
        f"    {quoted(layout.name)},",
        "    rules=(",
    ]
    for line in lines:
        text += _rule(line, marks.get(line.key, ""))
    text.append("    ),")
    if layout.tied:
        text += [
            "    tied=(",
            *(f"        Tied({quoted(x.name)}, {quoted(x.to)}, {quoted(x.reason)})," for x in layout.tied),
            "    ),",
        ]
    if layout.dropped:
        text += [
            "    dropped=(",
            *(f"        Dropped({quoted(x.name)}, {quoted(x.reason)})," for x in layout.dropped),
            "    ),",
        ]
    if layout.axes:
        pairs = ", ".join(f"({quoted(axis)}, {size})" for axis, size in layout.axes)
        text.append(f"    axes=({pairs}{',' if len(layout.axes) == 1 else ''}),")
    return "\n".join([*text, ")"]) + "\n"


def _rule(line: Line, mark: str) -> list[str]:
    arguments = [quoted(line.theirs), quoted(line.hub)]
    for name, value in line.form.arguments:
        shown = quoted(value) if isinstance(value, str) else repr(value)
        positional = name == "pattern" or name == "rows"
        arguments.append(shown if positional else f"{name}={shown}")
    comment = f"  # {mark}" if mark else ""
    whole = f"        {line.form.kind}({', '.join(arguments)}),"
    if len(whole) + len(comment) <= WIDTH:
        return [whole + comment]
    above = [f"        # {mark}"] if mark else []
    if len(whole) <= WIDTH:
        return [*above, whole]
    return [
        *above,
        f"        {line.form.kind}(",
        *(f"            {each}," for each in arguments),
        "        ),",
    ]


def quoted(text: str) -> str:
    """A text in double quotes, as in Python, JSON and TOML."""
    return json.dumps(text, ensure_ascii=False)


def toml_source(layout: Layout, lines: Sequence[Line], marks: Mapping[str, str], notes: Sequence[str]) -> str:
    """The layout as TOML, which `attention-bridge convert --from mine.toml` reads; arguments as in `python_source`."""
    text = [*(f"# {note}" for note in notes), f"name = {quoted(layout.name)}"]
    if layout.axes:
        text += ["", "[axes]", *(f"{axis} = {size}" for axis, size in layout.axes)]
    for line in lines:
        if mark := marks.get(line.key, ""):
            text += ["", f"# {mark}", "[[rules]]"]
        else:
            text += ["", "[[rules]]"]
        text += [] if line.form.kind == "Rule" else [f"kind = {quoted(line.form.kind)}"]
        text.append(f"theirs = {quoted(line.theirs)}")
        text.append(f"hub = {quoted(line.hub)}")
        text += [
            f"{name} = {quoted(value) if isinstance(value, str) else list(value)}"
            for name, value in line.form.arguments
        ]
    for tied in layout.tied:
        text += [
            "",
            "[[tied]]",
            f"name = {quoted(tied.name)}",
            f"to = {quoted(tied.to)}",
            f"reason = {quoted(tied.reason)}",
        ]
    for dropped in layout.dropped:
        text += ["", "[[dropped]]", f"name = {quoted(dropped.name)}", f"reason = {quoted(dropped.reason)}"]
    return "\n".join(text) + "\n"
