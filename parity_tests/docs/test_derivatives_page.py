"""The page of derivatives says what runs say: a sample of its cells always, all of them in the slow tests."""

from pathlib import Path

import pytest

from benchmarks import derivatives

FILE = Path(__file__).parents[2] / "docs" / "derivatives.md"
SAMPLE = [
    ("PyTorch", "reference", ("second", "forward", "hidden")),
    ("PyTorch", "blockwise", ("second", "forward", "vmap", "hidden")),
    ("PyTorch", "sdpa", ("backward", "second", "forward", "exported")),
    ("PyTorch", "flex", ("backward",)),
    ("JAX", "reference", ("hidden",)),
    ("JAX", "blockwise", ("forward", "hidden")),
    ("JAX", "cudnn", ("backward",)),
]


def written():
    """The cells of the page by framework and implementation, without the numbers of reasons."""
    found, framework = {}, ""
    for line in FILE.read_text().splitlines():
        framework = line.removeprefix("## ") if line.startswith("## ") else framework
        if line.startswith("| `"):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            cells = [cell.partition(" (")[0] for cell in cells]
            found[framework, name.strip("`")] = dict(zip(derivatives.PROBES, cells, strict=True))
    return found


def test_page_has_every_implementation_and_nothing_wrong():
    import jax_attention.ops.dispatch
    import torch_attention.ops.dispatch

    modules = {"PyTorch": torch_attention.ops.dispatch, "JAX": jax_attention.ops.dispatch}
    for framework, module in modules.items():
        assert {*derivatives.ROWS[framework]} == {"default", *module.IMPLEMENTATIONS}
    assert [*written()] == [
        (framework, name) for framework, names in derivatives.ROWS.items() for name in names
    ]
    assert not any(derivatives.WRONG in cells.values() for cells in written().values())


@pytest.mark.filterwarnings("ignore")  # what is refused may warn first
@pytest.mark.parametrize(("framework", "name", "probes"), SAMPLE)
def test_sample_of_cells_is_what_a_run_says(framework, name, probes, as_shipped):
    row = derivatives.torch_row if framework == "PyTorch" else derivatives.jax_row
    found = {probe: cell for probe, (cell, _) in row(name, probes).items()}
    assert found == {probe: written()[framework, name][probe] for probe in probes}


def test_wrong_number_would_be_noticed():
    right = derivatives.expected("second", derivatives.head_dim_of("blockwise"))
    assert derivatives.judged("second", "blockwise", right) == derivatives.YES
    assert derivatives.judged("second", "blockwise", [*right[:-1], 1.001 * right[-1]]) == derivatives.WRONG


@pytest.mark.survey
def test_page_is_what_it_is_printed_to_be():
    assert derivatives.page(derivatives.measured()) == FILE.read_text().rstrip("\n")
