"""A layout of one's own as TOML, which `read_layout` reads again as an equal layout."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from attention_bridge.errors import InputError
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layout_files import ENTRIES, PLAIN
from attention_bridge.weights.rule import Rule

# Fields with functions, or only of the package's own files, which TOML cannot hold.
WITHOUT_TOML = ("constants", "renamed", "files", "misfits")


def toml_of(layout: Layout) -> str:
    """The layout as TOML.

    Raises:
        InputError: the layout has a part that TOML cannot hold.
    """
    if held := [name for name in WITHOUT_TOML if getattr(layout, name)]:
        raise InputError(f"the layout {layout.name} cannot be written as TOML: it has {', '.join(held)}")
    plain = {name: getattr(layout, name) for name in PLAIN if name == "name" or _is_set(layout, name)}
    text = [f"{name} = {_value(x)}" for name, x in plain.items()]
    if layout.spellings:
        text.append(f"spellings = {_value(layout.spellings)}")
    if layout.axes:
        text += ["", "[axes]", *(f"{json.dumps(axis)} = {size}" for axis, size in layout.axes)]
    for rule in layout.rules:
        kind = [] if type(rule) is Rule else [f"kind = {_value(type(rule).__name__)}"]
        text += ["", "[[rules]]", *kind, *_fields(rule)]
    for entry in ENTRIES:
        for each in getattr(layout, entry):
            text += ["", f"[[{entry}]]", *_fields(each)]
    return "\n".join(text) + "\n"


def _fields(entry: Any) -> list[str]:
    """The constructor arguments of an entry that differ from their defaults."""
    required = {x.name for x in dataclasses.fields(entry) if x.init and x.default is dataclasses.MISSING}
    names = [x.name for x in dataclasses.fields(entry) if x.init]
    return [
        f"{name} = {_value(getattr(entry, name))}"
        for name in names
        if name in required or _is_set(entry, name)
    ]


def _is_set(entry: Any, name: str) -> bool:
    """Whether a field differs from its default."""
    (field,) = (x for x in dataclasses.fields(entry) if x.name == name)
    return bool(getattr(entry, name) != field.default)


def _value(value: Any) -> str:
    """A value in TOML, which writes strings as JSON does."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)
