"""The subpackages ("rooms") of the bridge import each other only downwards, tier by tier; and its public names."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import attention_bridge

ROOT = Path(attention_bridge.__file__).parent
# The tiers, highest first: a subpackage may import any lower tier.
FLOORS = (
    ("cli", "pages", "demo"),
    ("doctor", "training"),
    ("pretrained", "parity", "plots", "accelerators", "rosetta"),
    ("weights", "checkpoints", "optimizers"),
    ("catalogue", "oracles", "masks", "errors"),
)
# Allowed imports within a tier.
NEIGHBOURS = {
    ("cli", "pages"),
    ("cli", "demo"),
    ("pretrained", "parity"),  # verification
    ("accelerators", "parity"),
    ("plots", "parity"),
    ("checkpoints", "weights"),
    ("optimizers", "weights"),
    ("catalogue", "oracles"),
    ("catalogue", "errors"),
}
FLOOR = {room: n for n, rooms in enumerate(FLOORS) for room in rooms}


def imported(file):
    """The modules of the bridge that a file imports, inside functions too, with line numbers."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "attention_bridge":
            yield from ((f"attention_bridge.{each.name}", node.lineno) for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
        elif isinstance(node, ast.Import):
            yield from ((each.name, node.lineno) for each in node.names)


def arrows():
    """Each pair of a subpackage and another one that it imports, with the places of the imports."""
    found = defaultdict(list)
    for file in sorted(ROOT.rglob("*.py")):
        inside = file.relative_to(ROOT)
        room = inside.parts[0].removesuffix(".py")
        for name, line in imported(file):
            parts = name.split(".")
            if parts[0] == "attention_bridge" and len(parts) > 1 and room not in ("__init__", parts[1]):
                found[room, parts[1]].append(f"{inside}:{line}")
    return found


def forbidden(found):
    return {
        arrow: places
        for arrow, places in found.items()
        if FLOOR[arrow[1]] <= FLOOR[arrow[0]] and arrow not in NEIGHBOURS
    }


def test_subpackages_import_lower_tiers_and_listed_neighbours_only():
    assert forbidden(arrows()) == {}


def test_every_subpackage_has_a_tier():
    rooms = {each.name.removesuffix(".py") for each in ROOT.iterdir() if each.suffix in ("", ".py")}
    assert rooms - {"__init__", "__pycache__", "data"} == FLOOR.keys()


def test_listed_neighbours_are_needed():
    assert arrows().keys() >= NEIGHBOURS


def test_upward_import_is_detected():
    """A negative control."""
    assert forbidden({("weights", "pretrained"): ["weights/engine.py:1"], ("weights", "errors"): [""]})


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_conversions_of_one_framework_never_import_the_other(framework):
    """For the package root and its conversions, in a new interpreter."""
    other = "jax" if framework == "torch" else "torch"
    code = (
        "import sys, attention_bridge\n"
        "assert not {'torch', 'jax', 'numpy'} & sys.modules.keys(), sys.modules.keys()\n"
        "from attention_bridge import convert, explain, inspect, load_pretrained, save_pretrained, transfer\n"
        f"import {framework}_attention.models\n"
        f"assert {other!r} not in sys.modules\n"
        "print(attention_bridge.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(".") == 2


def test_public_names_are_functions_with_a_docstring():
    for name in attention_bridge.PUBLIC:
        thing = getattr(attention_bridge, name)
        assert callable(thing), name
        assert thing.__doc__, name
        assert f"`{name}(" in attention_bridge.__doc__
    with pytest.raises(AttributeError, match="has no attribute 'converts'"):
        _ = attention_bridge.converts
