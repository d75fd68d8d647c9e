"""The mirrors' models and the fields of their configurations, parsed from the source code.

Configurations are checked without either framework, so no mirror is imported.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Declared(NamedTuple):
    """A declared field of a dataclass, or argument of a function.

    Attributes:
        kind: type annotation, such as `int | None`.
        required: whether there is no default.
    """

    kind: str
    required: bool


@cache
def configurations() -> dict[str, dict[str, Declared]]:
    """The configuration classes of the mirrors' models: class name to field name to declaration."""
    return {
        node.name: _fields(node) for node in _classes() if node.name.endswith(("Config", "Spec", "Tokens"))
    }


@cache
def models() -> dict[str, str]:
    """The mirrors' models that store a configuration: class name to configuration class."""
    return {
        node.name: ast.unparse(argument.annotation)
        for node in _classes()
        for line in node.body
        if isinstance(line, ast.FunctionDef) and line.name == "__init__"
        for argument in line.args.args
        if argument.arg == "config" and argument.annotation and "self.config = config" in ast.unparse(line)
    }


FUNCTIONS = (
    "rms_norm",
    "layer_norm",
    "head_layer_norm",
    "layer_scale",
    "linear_frequencies",
    "dynamic_ntk_frequencies",
    "yarn_frequencies",
    "yarn_amplitude",
    "llama3_frequencies",
    "longrope_frequencies",
    "longrope_amplitude",
    "proportional_frequencies",
)
OWN = {"self", "device", "dtype", "factory"}  # arguments that a description does not contain


@cache
def parts() -> dict[str, dict[str, Declared]]:
    """The parts that a description may name, with their arguments: attention classes, feed-forwards and norms."""
    package = _package()
    nodes = [node for file in sorted(package.rglob("*.py")) for node in _nodes(file)]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    found = {}
    for name, node in classes.items():
        made = _constructor(node, classes)
        if made is not None:
            found[name] = dict(_arguments(made, classes))
        elif "nn.Module" in map(ast.unparse, node.bases):
            found[name] = {}
        elif name.endswith("Routing"):
            found[name] = _fields(node)
    return found | {name: dict(_arguments(functions[name], classes)) for name in FUNCTIONS}


def _constructor(node: ast.ClassDef | None, classes: Mapping[str, ast.ClassDef]) -> ast.FunctionDef | None:
    """The constructor of a class, its own or an inherited one."""
    while node is not None:
        for line in node.body:
            if isinstance(line, ast.FunctionDef) and line.name == "__init__":
                return line
        node = next((classes[name] for base in node.bases if (name := ast.unparse(base)) in classes), None)
    return None


def _arguments(made: ast.FunctionDef, classes: Mapping[str, ast.ClassDef]) -> Iterator[tuple[str, Declared]]:
    """The arguments of a function, including keyword arguments that a `TypedDict` lists."""
    given = made.args
    least = len(given.args) - len(given.defaults)
    for n, argument in enumerate(given.args):
        yield from _declared(argument, n < least)
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield from _declared(argument, default is None)
    if given.kwarg is not None and isinstance(given.kwarg.annotation, ast.Subscript):
        named: ast.ClassDef | None = classes.get(ast.unparse(given.kwarg.annotation.slice))
        while named is not None and named.name != "Factory":
            yield from {name: Declared(x.kind, False) for name, x in _fields(named).items()}.items()
            named = classes.get(ast.unparse(named.bases[0]))


def _declared(argument: ast.arg, required: bool) -> Iterator[tuple[str, Declared]]:
    if argument.arg not in OWN and argument.annotation is not None:
        yield argument.arg, Declared(ast.unparse(argument.annotation), required)


def _fields(node: ast.ClassDef) -> dict[str, Declared]:
    return {
        line.target.id: Declared(ast.unparse(line.annotation), line.value is None)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and "ClassVar" not in ast.unparse(line.annotation)
    }


@cache
def _classes() -> tuple[ast.ClassDef, ...]:
    """The classes in the files of the mirror's models."""
    files = sorted(_package().joinpath("models").glob("*.py"))
    return tuple(node for file in files for node in _nodes(file) if isinstance(node, ast.ClassDef))


def _nodes(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_text(encoding="utf-8")).body


def _package() -> Path:
    """The directory of the PyTorch mirror; the JAX mirror has the same declarations."""
    package = importlib.util.find_spec("torch_attention")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("torch_attention is not installed")
    return Path(package.origin).parent
