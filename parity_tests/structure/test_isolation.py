"""Import rules: each mirror without the other framework, the bridge without either, and no import cycles."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import attention_bridge
import jax_attention
import torch_attention

ROOTS = {
    package.__name__: Path(package.__file__).parent
    for package in (torch_attention, jax_attention, attention_bridge)
}
MIRRORS = {"torch_attention", "jax_attention"}

TORCH = {"torch"}
JAX = {"jax", "jaxlib", "flax", "optax"}
# For each module, the frameworks that it must be importable without.
WITHOUT = {
    **{f"torch_attention{part}": JAX for part in ("", ".models", ".ops", ".layers", ".demonstration")},
    **{f"jax_attention{part}": TORCH for part in ("", ".models", ".ops", ".layers", ".demonstration")},
    **{
        f"attention_bridge{part}": TORCH | JAX
        for part in (
            "",
            ".weights",
            ".weights.layouts",
            ".checkpoints",
            ".oracles",
            ".errors",
            ".catalogue",
            ".doctor.file",
            ".rosetta",
            ".pretrained.families",
            ".pretrained.conversion",
            ".pretrained.inspection",
            ".training",
            ".cli.weight_tables",
        )
    },
}
PROGRAM = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ImportError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Absent())
for name in {absent}:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
    else:
        raise AssertionError(f"{{name}} is there after all")
for name in {names}:
    importlib.import_module(name)
print(sorted(name for name in sys.modules if name.partition(".")[0] in {absent}))
"""


@pytest.fixture(scope="module")
def imported():
    """For each package, the result of importing it without the frameworks it does not need; all run in parallel."""
    running = {}
    for package, root in ROOTS.items():
        names = [name for name in WITHOUT if name.partition(".")[0] == package]
        [absent] = {frozenset(WITHOUT[name]) for name in names}
        running[package] = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM.format(absent=sorted(absent), names=names)],
            cwd=root.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    return {package: (*process.communicate(timeout=300), process) for package, process in running.items()}


@pytest.mark.parametrize("package", ROOTS)
def test_package_imports_without_the_framework_it_does_not_need(imported, package):
    output, errors, process = imported[package]
    assert process.returncode == 0, errors
    assert output.strip() == "[]"


def imports(path, package):
    """Every module that a file imports, at the top or inside functions, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files_of(package):
    """The files of a package, by their path inside it."""
    root = ROOTS[package]
    return {str(path.relative_to(root)): path for path in sorted(root.rglob("*.py"))}


def parts_of_itself(path, package):
    """The parts of its own package that a file imports, by the first name below the package."""
    below = [name for name in imports(path, package) if name.startswith(f"{package}.")]
    return {name.split(".")[1] for name in below}


@pytest.mark.parametrize("package", sorted(MIRRORS))
def test_mirror_imports_neither_the_other_nor_the_bridge(package):
    others = {*ROOTS} - {package}
    frameworks = JAX if package == "torch_attention" else TORCH
    for file, path in files_of(package).items():
        tops = {name.partition(".")[0] for name in imports(path, package)}
        assert not tops & (others | frameworks), file


@pytest.mark.parametrize("package", sorted(MIRRORS))
def test_operations_import_only_operations_masks_and_checks(package):
    for file, path in files_of(package).items():
        if file.startswith("ops/"):
            assert parts_of_itself(path, package) <= {
                "ops",
                "masks",
                "checks",
                "outputs",
                "arrays",
                "arguments",
                "ranges",
            }, file


@pytest.mark.parametrize("package", sorted(MIRRORS))
@pytest.mark.parametrize(
    ("file", "allowed"),
    [
        ("arrays.py", set()),
        ("checks.py", {"arrays", "ranges"}),
        ("ranges.py", {"arrays"}),
        ("arguments.py", {"arrays", "checks", "ranges"}),
        ("outputs.py", set()),
        ("masks.py", {"arguments", "arrays", "checks", "ops"}),
        ("layers.py", {"arguments", "arrays", "checks", "ops"}),
        ("norms.py", {"arguments", "arrays", "checks", "layers", "ops"}),
        ("activations.py", {"arguments", "arrays", "ops"}),
        ("feed_forward.py", {"activations", "arguments", "checks", "layers"}),
        ("demonstration.py", {"outputs"}),
    ],
)
def test_shared_parts_import_no_mechanism(package, file, allowed):
    assert parts_of_itself(files_of(package)[file], package) <= allowed


@pytest.mark.parametrize("package", sorted(MIRRORS))
def test_only_the_package_and_models_import_models(package):
    for file, path in files_of(package).items():
        if not file.startswith("models/"):
            assert "models" not in parts_of_itself(path, package), file


@pytest.mark.parametrize("package", sorted(MIRRORS))
def test_imports_have_no_cycle(package):
    def leaf(name):
        """The file of a module below the package, or None for other packages."""
        inside = name.removeprefix(f"{package}.").replace(".", "/")
        return next((file for file in (f"{inside}.py", f"{inside}/__init__.py") if file in files), None)

    files = files_of(package)
    graph = {
        file: {leaf(name) for name in imports(path, package) if name.startswith(f"{package}.")} - {None}
        for file, path in files.items()
    }
    done: set[str] = set()
    while ready := {file for file in graph.keys() - done if graph[file] <= done | {file}}:
        done |= ready
    assert done == set(files)
