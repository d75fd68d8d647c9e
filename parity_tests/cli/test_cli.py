"""The commands `list`, `show` and `parity`, as a new user runs them."""

import json
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from attention_bridge.catalogue import CATALOGUE, select
from attention_bridge.cli import app
from attention_bridge.pages import proofs
from attention_bridge.parity import proof
from attention_bridge.parity.comparison import Difference
from attention_bridge.weights.layouts import LAYOUTS

run = CliRunner().invoke


def test_list_names_every_mechanism_with_its_paper() -> None:
    result = run(app, ["list"])
    assert result.exit_code == 0
    for mechanism in CATALOGUE:
        [line] = [line for line in result.stdout.splitlines() if line.split()[:1] == [mechanism.name]]
        assert mechanism.family in line
        assert mechanism.paper.authors.split()[0] in line


def test_list_as_json_has_one_object_per_mechanism() -> None:
    rows = json.loads(run(app, ["list", "--json"]).stdout)
    assert [row["name"] for row in rows] == [mechanism.name for mechanism in CATALOGUE]
    said = {"name", "family", "paper", "year", "address", "equation", "files", "dtypes", "peers", "no_peer"}
    said |= {"models", "proofs"}
    assert set(rows[0]) == said | {"decoding", "no_decoding"}


def test_list_as_markdown_links_each_mechanism_to_both_its_files() -> None:
    page = run(app, ["list", "--markdown"]).stdout
    for mechanism in CATALOGUE:
        for package in ("torch_attention", "jax_attention"):
            assert f"[{mechanism.file}](../{package}/{mechanism.file})" in page
            assert (Path(package) / mechanism.file).is_file()


def test_parity_prints_a_table_and_succeeds() -> None:
    result = run(app, ["parity", "luongattention-dot", "--dtype", "float32"])
    assert result.exit_code == 0
    assert "LuongAttention-dot" in result.stdout
    assert "ok" in result.stdout


@pytest.mark.slow
def test_parity_as_json_has_one_row_per_mechanism_and_dtype() -> None:
    result = run(app, ["parity", "LuongAttention-dot", "ScaledDotProductAttention", "--json"])
    rows = json.loads(result.stdout)
    assert [(row["name"], row["dtype"]) for row in rows] == [
        (name, dtype)
        for name in ("LuongAttention-dot", "ScaledDotProductAttention")
        for dtype in proof.DTYPES
    ]
    for row in rows:
        assert row["ok"] is True
        assert row["platform"] == "cpu"
        assert 0 <= row["torch_err"] <= row["tolerance"]
        assert 0 <= row["jax_err"] <= row["tolerance"]
        assert {"diff", "gradient_diff"} <= set(row)


def test_parity_as_markdown_is_a_page_with_platforms_figures_and_masks() -> None:
    command = ["parity", "LuongAttention-dot", "--dtype", "float64", "--markdown"]
    lines = run(app, command).stdout.splitlines()
    assert lines[0] == "# Parity"
    assert "| cpu | run, PyTorch against JAX | 1 of 1 |" in lines
    assert "| gpu (NVIDIA) | exported as StableHLO, not run | 1 of 1 |" in lines
    compiled = (
        "compiled by libtpu, not run | 1 of 1" if find_spec("libtpu") else "not compiled: libtpu is not"
    )
    assert any(line.startswith("| tpu") and compiled in line for line in lines)
    (row,) = (line for line in lines if line.startswith("| LuongAttention-dot | float64 |"))
    assert row.endswith("| 100 % | ok |")
    assert lines[-3].startswith("| mechanism | none | query key | batch query key |")
    assert lines[-1].startswith("| LuongAttention-dot | ")
    assert lines[-1].count("|") == lines[-3].count("|")


def test_parity_exits_with_1_and_names_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Difference("weights", "output", 1e-7, 0.5, 0.5, 1e-6, elements=3, same_bits=1, other_zeros=0)
    fine = Difference("x", "gradient", 1e-7, 1e-7, 1e-7, 1e-6, elements=3, same_bits=3, other_zeros=0)
    measured = SimpleNamespace(differences=lambda: [wrong, fine])
    monkeypatch.setattr(proof, "measure_case", lambda *_: measured)
    result = run(app, ["parity", "SelfAttention", "--dtype", "float32"])
    assert result.exit_code == 1
    assert "DIFFERS" in result.stdout
    assert "weights" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["parity", "FlashAttention"], "unknown mechanism 'FlashAttention'; did you mean "),
        (["parity"], "expected either names of mechanisms or --all"),
        (["parity", "SelfAttention", "--all"], "expected either names of mechanisms or --all"),
        (
            ["parity", "SelfAttention", "--dtype", "float8"],
            "--dtype must be one of float32, float64, bfloat16, got 'float8'",
        ),
        (
            ["parity", "SelfAttention", "--platform", "tpu"],
            "platform tpu is not on this machine: JAX finds cpu",
        ),
    ],
)
def test_bad_input_gives_one_sentence_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    result = run(app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"attention-bridge: {sentence}" in result.stderr
    assert "Traceback" not in result.stderr


def test_version_is_that_of_the_package():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"attention-bridge {version('attention-bridge')}\n")


@pytest.mark.parametrize("command", [each.name or each.callback.__name__ for each in app.registered_commands])
def test_every_command_has_help_that_begins_with_a_verb(command):
    done = CliRunner().invoke(app, [command, "-h"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == 0
    sentence = done.output.split("\n")[3].strip()
    assert sentence.split()[0] in VERBS, sentence
    assert command in ("layouts", "info") or "Example: attention-bridge " in done.output


VERBS = (
    *(
        "Compute",
        "Continue",
        "Convert",
        "Diagnose",
        "Draw",
        "Label",
        "List",
        "Predict",
        "Print",
        "Propose",
        "Prove",
        "Run",
    ),
    "Show",
    "Verify",
)


def test_show_prints_equation_source_and_both_signatures():
    done = CliRunner().invoke(app, ["show", "GroupedQueryAttention"])
    (mechanism,) = select(["GroupedQueryAttention"])
    assert done.exit_code == 0
    assert mechanism.equation in done.output
    assert mechanism.paper.address in done.output
    for package in ("torch_attention", "jax_attention"):
        assert f"{package}/{mechanism.file}\n  GroupedQueryAttention(embed_dim, num_heads, " in done.output
    assert done.output.count("num_kv_heads") == 2
    assert re.search(r"  models    .*\bbloom, .*falcon, .*llama, ", done.output)
    assert "float32   outputs: torch " in done.output
    named = json.loads(CliRunner().invoke(app, ["show", "GroupedQueryAttention", "--json"]).output)
    assert named["name"] == "GroupedQueryAttention"
    wrong = CliRunner().invoke(app, ["show", "GroupedAttention"])
    assert wrong.exit_code == 2


def test_show_takes_every_mechanism():
    for mechanism in CATALOGUE:
        done = CliRunner().invoke(app, ["show", mechanism.name])
        assert done.exit_code == 0, done.output
        assert done.output.count("call(") == 2


def test_show_has_figures_of_every_proof_within_their_bounds():
    for row in json.loads(CliRunner().invoke(app, ["list", "--json"]).output):
        (mechanism,) = select([row["name"]])
        assert row["proofs"].keys() == set(mechanism.dtypes), row["name"]
        for figures in row["proofs"].values():
            assert 0 <= max(figures["torch_err"], figures["jax_err"]) <= figures["tolerance"]
            gradient = max(figures["torch_gradient_err"], figures["jax_gradient_err"])
            assert 0 <= gradient <= figures["gradient_tolerance"]


@pytest.mark.parametrize(
    ("name", "constructor", "models"),
    [
        ("ALiBi", "ALiBi(num_heads", "bloom"),
        ("RotaryEmbedding-yarn", "RotaryEmbedding(head_dim", "[^\n]*deepseek_v3, [^\n]*falcon, "),
        ("T5Bias", "T5Bias(num_heads", "[^\n]*t5"),
        ("LearnedEmbedding", "LearnedEmbedding(", "no model type"),
    ],
)
def test_show_of_a_positional_encoding_has_its_own_constructor_and_models(name, constructor, models):
    done = CliRunner().invoke(app, ["show", name])
    assert done.output.count(f"  {constructor}") == 2, done.output
    assert re.search(f"models    {models}", done.output)


def test_choices_of_options_are_in_the_help():
    shown = CliRunner().invoke(app, ["doctor", "--help"], env={"COLUMNS": "200"}).output
    assert "none|half|interleaved" in shown
    assert "relu|gelu|gelu_tanh" in shown


@pytest.mark.parametrize("command", [["list"], ["parity", "Encoder"]])
def test_two_forms_of_output_raise(command):
    done = CliRunner().invoke(app, [*command, "--json", "--markdown"])
    assert (done.exit_code, done.output) == (2, "attention-bridge: expected --json or --markdown, not both\n")


def test_figures_of_a_failed_proof_raise():
    row = {"name": "Encoder", "dtype": "float32", "ok": False}
    with pytest.raises(ValueError, match="expected proofs without a failure, got Encoder in float32"):
        proofs.figures([row])


def test_list_of_a_family_has_only_its_mechanisms():
    rows = json.loads(CliRunner().invoke(app, ["list", "--family", "gates", "--json"]).output)
    assert {row["family"] for row in rows} == {"gates"}
    assert len(rows) == len([each for each in CATALOGUE if each.family == "gates"])
    wrong = CliRunner().invoke(app, ["list", "--family", "gate"])
    assert wrong.exit_code == 2
    assert "--family must be one of basics, self," in wrong.output


def test_choices_are_those_of_the_modules():
    from attention_bridge.cli import choices
    from attention_bridge.doctor import setting
    from attention_bridge.oracles.common import ACTIVATIONS

    assert choices.DTYPES == proof.DTYPES
    assert (choices.NORMS, choices.ROPES) == (setting.NORMS, setting.ROPES)
    assert tuple(ACTIVATIONS) == choices.ACTIVATIONS


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["parity", "SelfAttention", "--dtype", "fp32"],
            "--dtype must be one of float32, float64, bfloat16, got 'fp32'",
        ),
        (
            ["parity", "SelfAttention", "--platform", "cuda"],
            "--platform must be one of cpu, gpu, tpu, got 'cuda'",
        ),
        (
            ["doctor", "x.npz", "--heads", "4", "--rope", "full"],
            "--rope must be one of none, half, interleaved, got 'full'",
        ),
        (["doctor", "x.npz", "--heads", "4", "--norm", "RMS"], "--norm must be one of layer, rms, got 'RMS'"),
    ],
)
def test_invalid_choice_names_the_option(command, message):
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.output) == (2, f"attention-bridge: {message}\n")


def test_shells_complete_layouts_and_mechanisms():
    from attention_bridge.cli import choices

    assert choices.layouts("hf.gp") == [name for name in LAYOUTS if name.startswith("hf.gp")]
    assert choices.layouts("hf.gpt_neox") == ["hf.gpt_neox"]
    gated = ["GatedAttention", "GatedLinearAttention", "GatedDeltaNet", "GatedShortConvolution"]
    assert choices.mechanisms("Gated") == gated
