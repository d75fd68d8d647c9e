"""Every snippet of the README runs."""

import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from attention_bridge.cli import app
from parity_tests.helpers import families
from torch_attention import CausalSelfAttention

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
LINES = [
    line for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL) for line in block.splitlines()
]
COMMANDS = [shlex.split(line)[1:] for line in LINES if line.startswith("attention-bridge")]
DEMONSTRATIONS = re.findall(r"`python -m (torch_attention\.\w+)`", README)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.splitlines()[0])
def test_python_snippets_run_and_print_the_stated_values(
    snippet: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(snippet, "README.md", "exec"), {})
    promised = re.findall(r"print\(.*?\)\s+# (\(.*\))", snippet)
    printed = [
        re.sub(r"^torch\.Size\(\[(.*)\]\)$", r"(\1)", line) for line in capsys.readouterr().out.splitlines()
    ]
    assert printed == promised


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_run(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "--all" in command:
        command = [*("LuongAttention-dot" if word == "--all" else word for word in command)]
    monkeypatch.chdir(tmp_path)
    families.model(families.CASES["gpt2"]).save_pretrained("gpt2")
    write_case(tmp_path / "case.npz")
    done = CliRunner().invoke(app, command)
    assert done.exit_code == (1 if command[0] == "doctor" else 0), done.output


def write_case(path: Path) -> None:
    """Write a doctor case: a port without the transpose of the key matrix."""
    torch.manual_seed(0)
    reference = CausalSelfAttention(12, 4)
    x = torch.randn(2, 5, 12)
    weights = {name: weight.detach().clone() for name, weight in reference.state_dict().items()}
    with torch.no_grad():
        expected = reference(x).output
        reference.k_proj.weight.copy_(weights["k_proj.weight"].T)
        candidate = reference(x).output
    np.savez(path, x=x, reference=expected, candidate=candidate, **weights)


def test_demonstrations_exist_in_both_mirrors() -> None:
    assert DEMONSTRATIONS
    for name in DEMONSTRATIONS:
        for module in (name, name.replace("torch_attention", "jax_attention")):
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()


def test_example_ports_proves_and_finds_the_transposed_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    example = ROOT / "examples" / "port_multihead_attention.py"
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert "8 matched, 0 synthesised, 0 ignored, 0 faults" in printed
    assert "proven" in printed
    assert printed.rstrip().endswith("first in submodule `k_proj (output)`")


def test_make_targets_and_extras_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([\w-]+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in re.findall(r'"\.\[(\w+)\]"', README):
        assert extra in extras


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_readme_names_the_installed_commands() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("attention-bridge"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(
        command in result.stdout
        for command in ("demo", "list", "parity", "layouts", "inspect", "convert", "doctor")
    )
