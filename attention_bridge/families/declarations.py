"""The models of the mirrors and the fields of their configurations, read from the source.

A configuration is checked without either framework, so no mirror is imported: what its dataclasses say is parsed.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Declared(NamedTuple):
    """One field of a dataclass.

    Attributes:
        kind: its annotation, such as `int | None`.
        required: whether it has no default.
    """

    kind: str
    required: bool


@cache
def configurations() -> dict[str, dict[str, Declared]]:
    """The configurations of the mirrors' models: class to field to what is declared of it."""
    return {
        node.name: {
            line.target.id: Declared(ast.unparse(line.annotation), line.value is None)
            for line in node.body
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        }
        for node in _classes()
        if node.name.endswith("Config")
    }


@cache
def models() -> dict[str, str]:
    """The mirrors' models, which keep their configuration: class to the class of the configuration."""
    return {
        node.name: ast.unparse(argument.annotation)
        for node in _classes()
        for line in node.body
        if isinstance(line, ast.FunctionDef) and line.name == "__init__"
        for argument in line.args.args
        if argument.arg == "config" and argument.annotation and "self.config = config" in ast.unparse(line)
    }


@cache
def _classes() -> tuple[ast.ClassDef, ...]:
    package = importlib.util.find_spec("torch_attention")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("torch_attention is not installed")
    files = sorted(Path(package.origin).with_name("models").glob("*.py"))
    return tuple(
        node
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
