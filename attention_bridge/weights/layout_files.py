"""Layouts of one's own in files: TOML, which runs no code, or a constant in a Python file.

    name = "mine"

    [axes]
    h = 4

    [[rules]]
    theirs = "h.{n}.attn.c_attn.weight"
    hub = "blocks.{n}.attention.{q,k,v}.kernel"
    pattern = "(h three d) i -> three i (h d)"

Tables are named after the arguments of `Layout`; a rule with `kind = "JoinedRule"` has the arguments of that class.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from attention_bridge.errors import InputError, cut, printable
from attention_bridge.weights.grouped import GroupedRule
from attention_bridge.weights.joined import JoinedRule
from attention_bridge.weights.layout import Dropped, Layout, Refused, Tied, Unused, ZeroBias
from attention_bridge.weights.reordered import ReorderedRule
from attention_bridge.weights.rule import Rule
from attention_bridge.weights.scaled import ScaledRule

RULES = {cls.__name__: cls for cls in (Rule, GroupedRule, JoinedRule, ReorderedRule, ScaledRule)}
ENTRIES: Mapping[str, Callable[..., Any]] = {
    "tied": Tied,
    "dropped": Dropped,
    "unused": Unused,
    "refused": Refused,
    "zero_biases": ZeroBias,
}
PLAIN = {"name": str, "stacked": str, "stacked_axis": int, "slashes": bool, "carried": str}
LARGEST = 2**22  # bytes of a TOML file


def is_layout_file(text: str) -> bool:
    """Whether a text names a file with a layout, not a layout: `mine.toml` or `mine.py:MINE`."""
    path, colon, _ = text.rpartition(":")
    return text.endswith(".toml") or text.endswith(".py") or (bool(colon) and path.endswith(".py"))


def read_layout(text: str) -> Layout:
    """Read a layout from a TOML file, or from a constant of a Python file, whose code runs.

    Args:
        text: `mine.toml`, or `mine.py:MINE` for the constant `MINE`.

    Raises:
        InputError: there is no such file or constant, or it describes no layout.
    """
    if text.endswith(".toml"):
        return _of_toml(Path(text))
    file, _, name = text.rpartition(":")
    if not file or not name.isidentifier():
        raise InputError(
            f"a layout in Python is given as a file and a constant, such as mine.py:MINE, got {printable(text)}"
        )
    return _of_python(Path(file), name)


def _of_python(file: Path, name: str) -> Layout:
    module = _run(file)
    found = module.get(name)
    if not isinstance(found, Layout):
        known = [key for key, value in module.items() if isinstance(value, Layout)]
        raise InputError(
            f"{name} must be a Layout in {file}, got {type(found).__name__}; it has {', '.join(known) or 'none'}"
        )
    return found


def constant(file: Path, name: str) -> Any:
    """The value of a name in a Python file, whose code runs; None if it has no such name.

    Raises:
        InputError: there is no such file, or its code raises an error.
    """
    return _run(file).get(name)


def _run(file: Path) -> dict[str, Any]:
    """The names of a Python file, whose code runs."""
    spec = spec_from_file_location(f"_layout_{file.stem}", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError(f"{file} cannot be read: there is no such Python file")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(cut(f"{file} cannot be run: {type(error).__name__}: {error}")) from error
    return vars(module)


def _of_toml(file: Path) -> Layout:
    try:
        if file.stat().st_size > LARGEST:
            raise InputError(f"{file} must have at most {LARGEST} bytes, got {file.stat().st_size}")
        content = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(cut(f"{file} is no TOML: {error}")) from error
    return layout_from(content, str(file))


def layout_from(content: Mapping[str, Any], file: str) -> Layout:
    """The layout that the content of a TOML file describes.

    Args:
        content: tables and values.
        file: name of the file, for messages.

    Raises:
        InputError: a field is unknown, missing or of a wrong type, or a rule has no inverse.
    """
    known = {*PLAIN, *ENTRIES, "rules", "axes", "spellings"}
    if unknown := content.keys() - known:
        raise InputError(
            f"{file} has an unknown field {min(unknown)!r}; a layout has {', '.join(sorted(known))}"
        )
    if not isinstance(content.get("name"), str) or not content.get("rules"):
        raise InputError(f"{file} must have a name and at least one table [[rules]]")
    given: dict[str, Any] = {}
    for field, kind in PLAIN.items():
        if field in content:
            if type(content[field]) is not kind:
                raise InputError(f"{file}: {field} must be of type {kind.__name__}, got {content[field]!r}")
            given[field] = content[field]
    for field, entry in ENTRIES.items():
        given[field] = tuple(_made(entry, row, f"{file}: {field}") for row in _rows(content, field, file))
    rules = []
    for number, row in enumerate(_rows(content, "rules", file), 1):
        kind = row.get("kind", "Rule")
        if kind not in RULES:
            raise InputError(f"{file}: kind must be one of {', '.join(RULES)}, got {kind!r}")
        arguments = {
            name: tuple(x) if isinstance(x, list) else x for name, x in row.items() if name != "kind"
        }
        rules.append(_made(RULES[kind], arguments, f"{file}: rule {number}"))
    axes = content.get("axes", {})
    if not isinstance(axes, Mapping) or not all(type(size) is int and size > 0 for size in axes.values()):
        raise InputError(f"{file}: axes must be a table of sizes, such as h = 4, got {axes!r}")
    spellings = content.get("spellings", [])
    if not isinstance(spellings, list) or not all(
        isinstance(pair, list) and [type(each) for each in pair] == [str, str] for pair in spellings
    ):
        raise InputError(f"{file}: spellings must be a list of pairs of names, got {spellings!r}")
    return Layout(
        rules=tuple(rules), axes=tuple(axes.items()), spellings=tuple(map(tuple, spellings)), **given
    )


def _rows(content: Mapping[str, Any], field: str, file: str) -> list[dict[str, Any]]:
    rows = content.get(field, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{file}: {field} must be tables, each headed [[{field}]]")
    return rows


def _made(kind: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> Any:
    """An object of a class, or one sentence about its arguments."""
    fields = {each.name: each for each in dataclasses.fields(kind) if each.init}  # type: ignore[arg-type]
    required = [name for name, each in fields.items() if each.default is dataclasses.MISSING]
    if unknown := arguments.keys() - fields.keys():
        raise InputError(f"{where} has an unknown field {min(unknown)!r}; expected {', '.join(fields)}")
    if missing := [name for name in required if name not in arguments]:
        raise InputError(f"{where} needs {', '.join(missing)}")
    for name, value in arguments.items():
        wanted = {"power": float, "shift": float, "order": tuple}.get(name, str)
        if not isinstance(value, wanted):
            raise InputError(f"{where}: {name} must be of type {wanted.__name__}, got {value!r}")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise InputError(cut(f"{where}: {error}")) from error
