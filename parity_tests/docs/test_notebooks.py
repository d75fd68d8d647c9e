"""The notebooks: built from their source, equal in their first cells, and run completely in either framework."""

import os
import re
import tempfile
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))
FRAMEWORKS = {"torch": "jax", "jax": "torch"}  # each with the framework that it does not need
NEEDS_BOTH = {"porting_weights"}

# Inserted before the first cell: network access raises.
OFFLINE = """
import socket

def refuse(*arguments, **options):
    raise OSError(f"a notebook must not need the network, but asks for {arguments}")

socket.getaddrinfo = socket.create_connection = refuse
"""
# Appended after the last cell.
ALONE = "import sys; assert {other!r} not in sys.modules, '{other} was loaded'"
DRAWS = "image/png"


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def shared(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """The cells from "Set up" to the one that finds the device."""
    found = cells(notebook)
    start = next(i for i, (_, text) in enumerate(found) if text.startswith("## Set up"))
    end = next(i for i, (_, text) in enumerate(found) if text.startswith("%matplotlib inline"))
    return found[start : end + 1]


def test_there_are_five_notebooks() -> None:
    assert len(SOURCES) == 5


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_is_built_from_its_source(source: Path) -> None:
    made, kept = jupytext.read(source), nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(kept)
    assert cells(kept) == cells(made), "make notebooks builds them again"
    assert kept.metadata["kernelspec"] == made.metadata["kernelspec"]
    assert [cell.metadata for cell in kept.cells] == [cell.metadata for cell in made.cells]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in kept.cells)


def test_every_notebook_has_a_source() -> None:
    assert sorted(FOLDER.glob("*.ipynb")) == [source.with_suffix(".ipynb") for source in SOURCES]


def test_first_cells_are_the_same_in_all() -> None:
    first, *others = [shared(jupytext.read(source)) for source in SOURCES]
    assert len(first) == 6
    assert all(other == first for other in others)


def test_first_cells_install_all_dependencies_and_no_framework() -> None:
    [install] = [text for _, text in shared(jupytext.read(SOURCES[0])) if "pip" in text and "needed" in text]
    listed = set(re.findall(r'"(\w+)"', re.search(r"needed = \[(.*?)\]", install)[1]))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert listed == {re.split(r"\W", need)[0] for need in project["dependencies"]} | {"matplotlib"}
    assert "--no-deps" in install


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_readme_names_each_notebook(source: Path) -> None:
    assert f"{source.stem}.ipynb" in (ROOT / "README.md").read_text()


def run(source: Path, environment: dict[str, str], last: str = "") -> nbformat.NotebookNode:
    """The notebook after all its cells have run in a separate process."""
    notebook = jupytext.read(source)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(OFFLINE))
    notebook.cells.append(nbformat.v4.new_code_cell(last))
    kernel = {
        **os.environ,
        **environment,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "PIP_NO_INDEX": "1",
    }
    with tempfile.TemporaryDirectory() as sockets:  # sockets as files, so that no port is opened
        config = Config({"ConnectionFileMixin": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=600,
            resources={"metadata": {"path": ROOT}},
            config=config,
        )
        return client.execute(env=kernel)


def warned(notebook: nbformat.NotebookNode) -> str:
    """The text on the error stream, which contains warnings."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.get("name") == "stderr")


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_cell_runs_without_warnings_and_with_one_framework(source: Path, framework: str) -> None:
    alone = "" if source.stem in NEEDS_BOTH else ALONE.format(other=FRAMEWORKS[framework])
    done = run(source, {"FRAMEWORK": framework}, alone)
    assert not warned(done)
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert any(DRAWS in output.get("data", {}) for output in outputs)
    title = {"torch": "PyTorch", "jax": "JAX"}[framework]
    assert any(output.get("text", "").startswith(title) for output in outputs)


@pytest.mark.slow
def test_warnings_network_access_and_the_other_framework_are_detected(tmp_path: Path) -> None:
    source = tmp_path / "control.py"
    source.write_text("# %%\nimport warnings\n\nwarnings.warn('look here')\n")
    assert "look here" in warned(run(source, {}))
    for cell, complaint in (
        (
            "import urllib.request\n\nurllib.request.urlopen('http://example.org')",
            "must not need the network",
        ),
        ("import sys\n\nsys.modules['jax'] = None", "jax was loaded"),
    ):
        source.write_text(f"# %%\n{cell}\n")
        with pytest.raises(CellExecutionError, match=complaint):
            run(source, {}, ALONE.format(other="jax"))
