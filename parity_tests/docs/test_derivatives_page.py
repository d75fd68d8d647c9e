"""The derivatives page agrees with actual runs: a sample of its cells always, all cells in the survey."""

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
    """The cells of the page by framework and implementation, without footnote numbers."""
    found, framework = {}, ""
    for line in FILE.read_text().splitlines():
        framework = line.removeprefix("## ") if line.startswith("## ") else framework
        if line.startswith("| `"):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            cells = [cell.partition(" (")[0] for cell in cells]
            found[framework, name.strip("`")] = dict(zip(derivatives.PROBES, cells, strict=True))
    return found


def test_page_has_every_implementation_and_no_wrong_cell():
    import jax_attention.ops.dispatch
    import torch_attention.ops.dispatch

    modules = {"PyTorch": torch_attention.ops.dispatch, "JAX": jax_attention.ops.dispatch}
    for framework, module in modules.items():
        assert {*derivatives.ROWS[framework]} == {"default", *module.IMPLEMENTATIONS}
    assert [*written()] == [
        (framework, name) for framework, names in derivatives.ROWS.items() for name in names
    ]
    assert not any(derivatives.WRONG in cells.values() for cells in written().values())


@pytest.mark.filterwarnings("ignore")  # unsupported calls may warn before they raise
@pytest.mark.parametrize(("framework", "name", "probes"), SAMPLE)
def test_sampled_cells_agree_with_a_run(framework, name, probes, as_shipped):
    row = derivatives.torch_row if framework == "PyTorch" else derivatives.jax_row
    found = {probe: cell for probe, (cell, _) in row(name, probes).items()}
    assert found == {probe: written()[framework, name][probe] for probe in probes}


def test_wrong_derivative_is_detected():
    right = derivatives.expected("second", derivatives.head_dim_of("blockwise"))
    assert derivatives.judged("second", "blockwise", right) == derivatives.YES
    assert derivatives.judged("second", "blockwise", [*right[:-1], 1.001 * right[-1]]) == derivatives.WRONG


@pytest.mark.survey
def test_page_is_up_to_date():
    assert derivatives.page(derivatives.measured()) == FILE.read_text().rstrip("\n")
