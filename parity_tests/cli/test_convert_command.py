"""`attention-bridge layouts`, `inspect` and `convert` as a user types them: results and errors."""

import json
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

from attention_bridge import checkpoints
from attention_bridge.checkpoints.format_detection import Found
from attention_bridge.cli import app
from attention_bridge.pretrained import families as readers
from attention_bridge.pretrained.source import Source
from attention_bridge.pretrained.verification import verify
from attention_bridge.weights import convert
from attention_bridge.weights.layouts import LAYOUTS
from parity_tests.helpers import families

RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    directory = tmp_path_factory.mktemp("gpt2")
    families.model(families.CASES["gpt2"]).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def neox(tmp_path_factory):
    directory = tmp_path_factory.mktemp("neox")
    families.model(families.CASES["gpt_neox"]).save_pretrained(directory)
    return directory


def everything_in(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


class TestLayouts:
    def test_every_layout_is_listed(self):
        shown = run("layouts")
        assert shown.exit_code == 0
        first = [line.split()[0] for line in shown.stdout.splitlines()[1:]]
        # A long cell continues in the next line.
        assert [word for word in first if word in LAYOUTS] == list(LAYOUTS)

    def test_json_has_every_rule_and_the_required_axes(self):
        rows = {row["name"]: row for row in json.loads(run("layouts", "--json").stdout)}
        assert rows["hf.gpt2"]["rules"][2] == {
            "theirs": "h.{n}.attn.c_attn.weight",
            "hub": "layers.{n}.attention.{q,k,v}_proj.weight",
            "axes": "i (three o) -> three o i",
        }
        assert rows["hf.gpt_neox"]["axes"] == ["d", "g"]


class TestInspect:
    def test_inspect_shows_format_layout_and_counts(self, gpt2):
        shown = run("inspect", gpt2)
        assert shown.exit_code == 0
        parameters = sum(x.size for x in checkpoints.read(gpt2).values())
        for part in (
            "safetensors",
            f"{parameters:,} parameters",
            "layout: hf.gpt2 (config.json",
            "Decoder",
        ):
            assert part in shown.stdout

    def test_json_has_every_tensor(self, gpt2):
        found = json.loads(run("inspect", gpt2, "--json").stdout)
        assert found["layouts"][0]["layout"] == "hf.gpt2"
        assert found["dtypes"] == {"float32": len(found["tensors"])}
        assert {name: x.shape for name, x in checkpoints.read(gpt2).items()} == {
            name: tuple(tensor["shape"]) for name, tensor in found["tensors"].items()
        }

    @pytest.mark.parametrize("name", families.SHORT)
    def test_layout_is_detected_from_names_and_shapes(self, name, tmp_path):
        case = families.CASES[name]
        families.model(case).save_pretrained(tmp_path)
        (tmp_path / "config.json").unlink()
        found = json.loads(run("inspect", tmp_path, "--json").stdout)
        assert case.layout in [candidate["layout"] for candidate in found["layouts"]]

    def test_unknown_names_are_reported(self, tmp_path):
        np.savez(tmp_path / "x.npz", odd_name_for_a_tensor=np.ones((2, 3)))
        assert "layout: unknown" in run("inspect", tmp_path / "x.npz").stdout


class TestConvert:
    @pytest.mark.parametrize("suffix", ["safetensors", "npz", "msgpack", "pt"])
    def test_checkpoint_survives_a_round_trip_bit_for_bit_in_each_format(self, gpt2, tmp_path, suffix):
        there, back = tmp_path / f"there.{suffix}", tmp_path / "back.safetensors"
        assert run("convert", gpt2, there, "--from", "hf.gpt2", "--to", "jax_attention").exit_code == 0
        assert run("convert", there, back, "--from", "jax_attention", "--to", "hf.gpt2").exit_code == 0
        given = {LAYOUTS["hf.gpt2"].canonical(name): x for name, x in checkpoints.read(gpt2).items()}
        found = checkpoints.read(back)
        assert found.keys() == given.keys()
        assert all(found[name].tobytes() == given[name].tobytes() for name in given)

    def test_config_beside_the_checkpoint_sets_layout_and_heads_and_both_are_verified(self, neox, tmp_path):
        target = tmp_path / "new.npz"
        done = run("convert", neox, target, "--to", "jax_attention", "--verify", "--json")
        assert done.exit_code == 0, done.output
        said = json.loads(done.stdout)
        assert said["from"] == "hf.gpt_neox"
        assert said["written"]
        assert said["verified"]["ok"]
        assert 0 < said["verified"]["error"] < 1e-5

    def test_fields_of_the_configuration_may_be_ignored_and_the_type_given(self, neox, tmp_path):
        config = json.loads((neox / "config.json").read_text())
        del config["model_type"], config["architectures"]
        (tmp_path / "config.json").write_text(json.dumps({**config, "attention_twist": 3}))
        (tmp_path / "model.safetensors").write_bytes((neox / "model.safetensors").read_bytes())
        target = tmp_path / "new.npz"
        refused = run("convert", tmp_path, target, "--model-type", "gpt_neox")
        assert (refused.exit_code, "attention_twist" in refused.stderr) == (2, True)
        done = run("convert", tmp_path, target, "--model-type", "gpt_neox", "--ignore", "attention_twist")
        assert done.exit_code == 0, done.output

    @pytest.mark.parametrize("options", [(), ("--verify",)])
    def test_source_and_its_configuration_are_opened_and_read_once(
        self, neox, tmp_path, monkeypatch, options
    ):
        opened, values = Counter(), Counter()

        def count(path, *arguments, **named):
            opened[Path(path).name] += 1
            return real_open(path, *arguments, **named)

        def read(reader, name):
            values[reader.path, name] += 1
            return real_read(reader, name)

        real_open, real_read = Path.open, checkpoints.Reader.read
        monkeypatch.setattr(Path, "open", count)
        monkeypatch.setattr(checkpoints.Reader, "read", read)
        monkeypatch.setattr(readers, "_read", counted := Mock(wraps=readers._read))
        monkeypatch.setattr(checkpoints, "open", opening := Mock(wraps=checkpoints.open))
        done = run("convert", neox, tmp_path / "new.safetensors", "--to", "jax_attention", *options)
        assert done.exit_code == 0, done.output
        assert opened["config.json"] == counted.call_count == 1
        assert [
            call.args[0].path.parent for call in opening.call_args_list if isinstance(call.args[0], Found)
        ] == [neox]
        most = 1 + len(options)  # and once more to compare the values
        reads = [count for (path, _), count in values.items() if path.parent == neox]
        assert len(reads) == len(checkpoints.read(neox))
        assert set(reads) <= {1, most}

    def test_verification_detects_a_wrong_target(self, neox, tmp_path):
        target = tmp_path / "new.safetensors"
        assert run("convert", neox, target, "--to", "torch_attention").exit_code == 0
        swapped = {
            name.translate(str.maketrans("kv", "vk")) if "_proj.weight" in name else name: x
            for name, x in checkpoints.read(target).items()
        }
        checkpoints.write(target, swapped)
        with Source.open(neox) as source:
            found = verify(source, target, "hf.gpt_neox", "torch_attention")
        assert not found.ok
        assert found.error > 1e-2

    def test_verification_of_a_constant_model_finds_it_equal(self, gpt2, tmp_path):
        (tmp_path / "config.json").write_bytes((gpt2 / "config.json").read_bytes())
        same = {
            name: np.full_like(x, 0.02 if x.ndim > 1 else "ln" in name and "weight" in name)
            for name, x in checkpoints.read(gpt2).items()
        }
        checkpoints.write(tmp_path / "model.safetensors", same)
        done = run("convert", tmp_path, tmp_path / "new.npz", "--to", "jax_attention", "--verify")
        assert done.exit_code == 0, done.output

    @pytest.mark.parametrize("change", [lambda x: x * np.float32(1e18)])
    def test_verification_of_an_overflowing_model_finds_equal_tensors(self, neox, tmp_path, change):
        (tmp_path / "config.json").write_bytes((neox / "config.json").read_bytes())
        tensors = {name: change(x) for name, x in checkpoints.read(neox).items()}
        checkpoints.write(tmp_path / "model.safetensors", tensors)
        target = tmp_path / "new.safetensors"
        done = run("convert", tmp_path, target, "--to", "torch_attention", "--verify")
        assert done.exit_code == 0, done.output
        damaged = checkpoints.read(target)
        name = next(iter(damaged))
        damaged[name] = damaged[name].copy()
        damaged[name].view(np.uint8).reshape(-1)[-1] ^= 128  # one sign bit
        checkpoints.write(target, damaged)
        with Source.open(tmp_path, config=neox) as source:
            found = verify(source, target, "hf.gpt_neox", "torch_attention")
        assert (found.ok, len(found.differing)) == (False, 1)

    @pytest.mark.parametrize("suffix", ["safetensors", "msgpack"])
    def test_state_with_value_suffixes_is_recognised(self, tmp_path, suffix):
        weight = np.arange(15, dtype=np.float32).reshape(5, 3)
        given = {
            "a.q_proj.kernel.value": weight,
            "a.norm.scale.value": weight[0],
            "drop.rngs.count.value": weight[0],
        }
        specs = {name: checkpoints.Spec(x.shape, x.dtype) for name, x in given.items()}
        checkpoints.save(tmp_path / f"old.{suffix}", given.items(), specs)
        done = run(
            "convert", tmp_path / f"old.{suffix}", tmp_path / "new.safetensors", "--from", "jax_attention"
        )
        assert done.exit_code == 0, done.output
        found = checkpoints.read(tmp_path / "new.safetensors")
        assert found.keys() == {"a.q_proj.weight", "a.norm.weight"}
        assert (found["a.q_proj.weight"] == weight.T).all()

    def test_directory_gets_a_safetensors_file(self, gpt2, tmp_path):
        assert run("convert", gpt2, tmp_path / "new", "--to", "torch_attention").exit_code == 0
        assert "token_embedding.weight" in checkpoints.read(tmp_path / "new")

    def test_dry_run_writes_nothing_and_reports_the_conversion(self, gpt2, tmp_path):
        done = run("convert", gpt2, tmp_path / "new", "--to", "jax_attention", "--dry-run", "--explain")
        assert done.exit_code == 0
        assert "would convert" in done.stdout
        assert (
            "layers.1.attention.q_proj.kernel from transformer.h.1.attn.c_attn.weight: cut axis 1"
            in done.stdout
        )
        assert list(tmp_path.iterdir()) == []

    def test_head_sizes_are_required_without_a_configuration(self, neox, tmp_path):
        (tmp_path / "old.safetensors").write_bytes((neox / "model.safetensors").read_bytes())
        given = tmp_path / "old.safetensors", tmp_path / "new.safetensors", "--from", "hf.gpt_neox"
        refused = run("convert", *given)
        assert refused.exit_code == 2
        assert "unknown axis" in refused.stderr
        assert not (tmp_path / "new.safetensors").exists()
        assert run("convert", *given, "--axis", "g=3", "--axis", "d=4").exit_code == 0

    def test_16_and_8_bit_values_are_unchanged(self, tmp_path):
        rng = np.random.default_rng(0)
        for dtype in (ml_dtypes.bfloat16, np.float16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
            bits = np.frombuffer(rng.bytes(15 * 5 * np.dtype(dtype).itemsize), dtype).reshape(15, 5)
            checkpoints.write(tmp_path / "old.safetensors", {"in_proj_weight": bits})
            ways = ("--from", "torch.mha", "--to", "jax_attention")
            done = run(
                "convert", tmp_path / "old.safetensors", tmp_path / "new.safetensors", *ways, "--force"
            )
            assert done.exit_code == 0, done.output
            back, _ = convert(checkpoints.read(tmp_path / "new.safetensors"), "jax_attention", "torch.mha")
            assert back["in_proj_weight"].tobytes() == bits.tobytes()

    def test_non_finite_values_are_converted_with_a_warning(self, tmp_path):
        weight = np.ones((15, 5), np.float32)
        weight[3, 2] = np.nan
        checkpoints.write(tmp_path / "old.safetensors", {"in_proj_weight": weight})
        done = run("convert", tmp_path / "old.safetensors", tmp_path / "new.npz", "--from", "torch.mha")
        assert done.exit_code == 0
        assert "in_proj_weight holds values that are not finite" in done.stderr


def wrong(gpt2, tmp_path):
    """Command lines that must fail, each with a part of the message."""
    old = tmp_path / "old.safetensors"
    checkpoints.write(old, {"in_proj_weight": np.ones((15, 5), np.float32)})
    (tmp_path / "cut.safetensors").write_bytes(old.read_bytes()[:-7])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "there.safetensors").write_bytes(b"precious")
    (tmp_path / "strange.json").write_text(json.dumps({"model_type": "mamba"}))
    new = tmp_path / "new.safetensors"
    ways = ("--from", "torch.mha")
    return [
        ((tmp_path / "none", new, *ways), "does not exist"),
        ((old, new, "--from", "torch.mma"), "--from: unknown layout 'torch.mma'; did you mean torch.mha"),
        (
            (old, new, *ways, "--to", "xxxxx"),
            "--to: unknown layout 'xxxxx'; `attention-bridge layouts` lists all",
        ),
        ((old, new), "has no config.json that gives its layout"),
        ((old, old, *ways), "source and target must be two files"),
        ((tmp_path / "cut.safetensors", new, *ways), "cut.safetensors"),
        ((tmp_path / "empty.safetensors", new, *ways), "empty"),
        ((old, tmp_path / "new.gguf", *ways), "its name must end in"),
        ((old, tmp_path / "new.txt", *ways), "its name must end in"),
        ((old, tmp_path / "no" / "such" / "new.safetensors", *ways), "is not a directory"),
        ((old, new, *ways, "--axis", "d"), "--axis must be a name and a size, such as d=64, got 'd'"),
        ((old, new, *ways, "--axis", "d=-1"), "such as d=64, got 'd=-1'"),
        ((old, new, *ways, "--config", tmp_path / "strange.json"), "must have a model_type of"),
        (
            (old, new, *ways, "--axis", "q=8"),
            "whose sizes the layouts torch.mha and torch_attention need, got q",
        ),
        (
            (old, new, *ways, "--config", tmp_path / "none.json"),
            "--config must be a file or directory that exists",
        ),
        ((old, new, *ways, "--to", "hf.bert", "--config", gpt2), "describes a model in the layout hf.gpt2"),
        ((old, "jax_attention", *ways), "is the name of a layout: give it with --to"),
        ((gpt2 / "config.json", new, *ways), "give its directory"),
        ((old, new, *ways, "--verify", "--dry-run"), "not both: a dry run writes no target"),
        ((gpt2, new, "--from", "hf.llama"), "unexpected"),
        ((old, tmp_path / "there.safetensors", *ways), "--force overwrites it"),
        ((old, new, *ways, "--verify"), "--verify needs the model's config.json"),
        ((old, new, *ways, "--verify", "--config", gpt2 / "config.json"), "--verify cannot run"),
    ]


def test_failed_conversion_gives_one_sentence_and_changes_no_file(gpt2, tmp_path):
    cases = wrong(gpt2, tmp_path)
    before = everything_in(tmp_path)
    for arguments, part in cases:
        done = run("convert", *arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert part in done.stderr, (arguments, done.stderr)
        assert done.stderr.startswith("attention-bridge: ")
        assert everything_in(tmp_path) == before


def test_older_target_survives_a_failed_conversion(gpt2, tmp_path, monkeypatch):
    target = tmp_path / "new.safetensors"
    target.write_bytes(b"precious")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attention_bridge.checkpoints.atomic._fsync", full)
    done = run("convert", gpt2, target, "--to", "jax_attention", "--force")
    assert done.exit_code == 2, done.output
    assert "No space left on device" in done.stderr
    assert everything_in(tmp_path) == {target: b"precious"}
