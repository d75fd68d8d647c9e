"""`convert --certify`, `parity --certify` and `check`, as a user types them."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from attention_bridge import checkpoints
from attention_bridge.cli import app
from attention_bridge.parity.certificates import Certificate, hashes
from parity_tests.helpers import families

RUNNER = CliRunner()
MINE = """
name = "mine"

[axes]
h = 3

[[rules]]
theirs = "blocks.{n}.qkv.weight"
hub = "layers.{n}.{query,key,value}.kernel"
pattern = "(h three d) i -> three i (h d)"
"""


def run(*arguments):
    return RUNNER.invoke(app, list(map(str, arguments)))


def failing(done):
    return [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("FAILS")]


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    directory = tmp_path_factory.mktemp("certified")
    families.model(families.CASES["gpt2"]).save_pretrained(directory / "gpt2")
    done = run(
        *("convert", directory / "gpt2", directory / "new", "--to", "jax_attention"),
        *("--certify", directory / "cert.json"),
    )
    assert done.exit_code == 0, done.output
    return directory


@pytest.fixture
def copied(certified, tmp_path):
    return shutil.copytree(certified, tmp_path / "copied")


@pytest.fixture
def mine(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3 * 3 * 4, 5)).astype(np.float32)
    checkpoints.write(tmp_path / "mine.safetensors", {"blocks.0.qkv.weight": weight})
    (tmp_path / "mine.toml").write_text(MINE)
    ends = ("--from", tmp_path / "mine.toml", "--to", "plain", "--certify", tmp_path / "cert.json")
    done = run("convert", tmp_path / "mine.safetensors", tmp_path / "new.npz", *ends)
    assert done.exit_code == 0, done.output
    return tmp_path


def edit(path, value, *keys):
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    assert inner[keys[-1]] != value
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


def change_by_one_ulp(file):
    """Change one number of the first matrix of a file."""
    tensors = {name: np.array(x) for name, x in checkpoints.read(file).items()}
    x = next(x for x in tensors.values() if x.ndim == 2)
    x[0, 1] = np.nextafter(x[0, 1], np.float32(np.inf))
    checkpoints.write(file, tensors)


class TestFamily:
    def test_both_files_are_loaded_in_both_mirrors_and_run(self, certified):
        content = Certificate.read(certified / "cert.json").content
        weights = content["weights"]
        assert weights["source"] == weights["way back"]
        loaded = [weights[f"{end} in {side}"] for end in ("source", "target") for side in ("torch", "jax")]
        assert len(set(loaded)) == 1
        (figures,) = content["runs"]
        assert figures["errors"]["attention map"]["tensors"] == 2
        assert figures["errors"]["gradient"]["tensors"] > 10
        assert figures["top1"]["equal"] == figures["top1"]["positions"] > 0
        assert set(content["subject"]["source"]["files"]) == {"gpt2/model.safetensors", "gpt2/config.json"}
        assert set(content["subject"]["target"]["files"]) == {"new/model.safetensors", "new/config.json"}
        assert str(certified) not in (certified / "cert.json").read_text()

    def test_check_repeats_the_comparison_at_another_place(self, certified, copied, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        shutil.move(copied / "cert.json", elsewhere / "cert.json")
        assert run("check", elsewhere / "cert.json", "--quick").exit_code == 1
        done = run("check", elsewhere / "cert.json", "--root", copied)
        assert (done.exit_code, failing(done)) == (0, []), done.output
        assert "holds  figures: equal to the repeated comparison, to the bit" in done.stdout

    def test_weight_changed_by_one_ulp_is_found(self, copied):
        change_by_one_ulp(copied / "new" / "model.safetensors")
        done = run("check", copied / "cert.json", "--quick")
        assert done.exit_code == 1
        assert [line.partition(":")[0] for line in failing(done)] == ["target new/model.safetensors"]
        assert [line.partition(":")[0] for line in failing(run("check", copied / "cert.json"))] == [
            "target new/model.safetensors",
            "repetition",
        ]

    def test_weight_changed_with_its_hash_is_found_by_the_way_back(self, copied):
        change_by_one_ulp(copied / "new" / "model.safetensors")
        changed = hashes.of_file(copied / "new" / "model.safetensors")
        edit(copied / "cert.json", changed, "subject", "target", "files", "new/model.safetensors")
        assert run("check", copied / "cert.json", "--quick").exit_code == 0
        done = run("check", copied / "cert.json")
        assert done.exit_code == 1
        assert {"weights", "faults"} <= {line.partition(":")[0] for line in failing(done)}

    def test_swapped_files_are_found(self, copied):
        source, target = copied / "gpt2" / "model.safetensors", copied / "new" / "model.safetensors"
        source.rename(copied / "x")
        target.rename(source)
        (copied / "x").rename(target)
        lines = failing(run("check", copied / "cert.json", "--quick"))
        assert len(lines) == 2
        assert all("the file has changed" in line for line in lines)

    def test_swapped_ends_of_the_certificate_are_found(self, copied):
        content = json.loads((copied / "cert.json").read_text())
        subject = content["subject"]
        for key in ("path", "files", "format", "tensors"):
            subject["source"][key], subject["target"][key] = subject["target"][key], subject["source"][key]
        (copied / "cert.json").write_text(json.dumps(content))
        done = run("check", copied / "cert.json")
        assert done.exit_code == 1
        assert failing(done)

    def test_missing_file_is_named(self, copied):
        (copied / "gpt2" / "config.json").unlink()
        (line,) = failing(run("check", copied / "cert.json", "--quick"))
        assert line.endswith("config.json does not exist")

    def test_json_has_one_object_per_finding(self, certified):
        rows = json.loads(run("check", certified / "cert.json", "--quick", "--json").stdout)
        assert [row["ok"] for row in rows] == [True] * 7
        assert rows[0]["subject"] == "schema"


class TestOwnLayout:
    def test_only_weights_are_certified_and_the_certificate_says_so(self, mine):
        certificate = Certificate.read(mine / "cert.json")
        assert certificate.content["runs"] == []
        assert certificate.content["environment"]["devices"] is None
        assert str(certificate).endswith("no model was run: a layout of one's own describes no model")
        assert "(h three d) i" in certificate.content["subject"]["source"]["layout"]["toml"]
        assert run("check", mine / "cert.json").exit_code == 0

    def test_check_needs_no_file_of_the_layout(self, mine):
        (mine / "mine.toml").unlink()
        assert run("check", mine / "cert.json").exit_code == 0

    def test_two_certificates_have_equal_bytes(self, mine):
        before = (mine / "cert.json").read_bytes()
        ends = ("--from", mine / "mine.toml", "--to", "plain", "--certify", mine / "cert.json", "--force")
        assert run("convert", mine / "mine.safetensors", mine / "new.npz", *ends).exit_code == 0
        assert (mine / "cert.json").read_bytes() == before

    def test_edited_layout_is_found(self, mine):
        layout = json.loads((mine / "cert.json").read_text())["subject"]["source"]["layout"]["toml"]
        other = layout.replace("(h three d) i", "(three h d) i")
        edit(mine / "cert.json", other, "subject", "source", "layout", "toml")
        done = run("check", mine / "cert.json")
        assert done.exit_code == 1
        assert any(line.startswith("weights: ") for line in failing(done))

    def test_verdict_that_hides_a_fault_is_found(self, mine):
        edit(mine / "cert.json", ["the way back gives other bytes of x"], "faults")
        lines = failing(run("check", mine / "cert.json", "--quick"))
        assert [line.partition(":")[0] for line in lines] == ["consistency"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (("--certify", "cert.txt"), "the name of a certificate must end in .json, got cert.txt"),
            (("--certify", "none/cert.json"), "none is not a directory"),
            (("--dry-run", "--certify", "cert.json"), "expected --dry-run or --certify, not both"),
        ],
    )
    def test_certificate_that_cannot_be_written_raises_before_the_conversion(
        self, certified, tmp_path, monkeypatch, options, sentence
    ):
        monkeypatch.chdir(tmp_path)
        done = run("convert", certified / "gpt2", "new.npz", *options)
        assert done.exit_code == 2
        assert sentence in done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_other_file_is_not_overwritten(self, certified, tmp_path):
        shutil.copy(certified / "gpt2" / "config.json", tmp_path / "config.json")
        done = run("convert", certified / "gpt2", tmp_path / "x.npz", "--certify", tmp_path / "config.json")
        assert done.exit_code == 2
        assert "is no certificate; it was left as it is" in done.stderr

    def test_models_of_a_conversion_raise(self, certified):
        done = run("check", certified / "cert.json", "--models", "mine.py:made")
        assert done.exit_code == 2


def test_parity_writes_a_certificate_that_check_repeats(tmp_path, monkeypatch):
    monkeypatch.setattr("attention_bridge.cli.parity.warn_of_miscompilation", lambda platform: None)
    done = run("parity", "LuongAttention-dot", "--dtype", "float32", "--certify", tmp_path / "cert.json")
    assert done.exit_code == 0, done.output
    assert run("check", tmp_path / "cert.json").exit_code == 0
    edit(tmp_path / "cert.json", 0.0, "runs", 0, "errors", "output", "torch", "relative")
    assert [line.partition(":")[0] for line in failing(run("check", tmp_path / "cert.json"))] == ["figures"]
