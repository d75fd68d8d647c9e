"""The examples that draw without training: their output and their files."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from matplotlib.image import imread
from typer.testing import CliRunner

from attention_bridge import plots
from attention_bridge.demo.encoded import Encoded
from attention_bridge.plots import style

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def invoke(module, *arguments):
    app = typer.Typer()
    app.command()(module.main)
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def assert_is_a_picture(path):
    """Assert that a picture is large, neither blank nor full, and more than text, which has few colours."""
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 500
    shades = np.round(pixels[::3, ::3, :3] * 15).astype(int) @ [256, 16, 1]
    assert len(np.unique(shades)) > 60
    white = (pixels[..., :3] == 1).all(axis=-1).mean()
    assert 0.02 < 1 - white < 0.9


def test_page_of_text_is_no_picture(tmp_path):
    figure = style.sheet(6, 6, title="A title")
    figure.text(0.1, 0.5, "words " * 20, color=style.SEEN)
    plots.save(figure, tmp_path / "page.png")
    with pytest.raises(AssertionError):
        assert_is_a_picture(tmp_path / "page.png")


class TestAttentionPatterns:
    def test_quick_writes_a_poster_as_png_and_svg(self, tmp_path):
        result = invoke(load("attention_patterns"), "--quick", "--output", tmp_path / "new")
        assert result.exit_code == 0, result.output
        assert "17 panels: 6 mechanisms of" in result.stdout
        assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
            "attention_patterns.png",
            "attention_patterns.svg",
        ]
        assert_is_a_picture(tmp_path / "new/attention_patterns.png")
        svg = (tmp_path / "new/attention_patterns.svg").read_text()
        assert svg.count("<image") >= 18  # the input and each panel, without the legend

    def test_both_reports_the_largest_difference_and_its_mechanism(self, tmp_path):
        result = invoke(
            load("attention_patterns"), "--framework", "both", "--family", "low_rank", "--output", tmp_path
        )
        assert result.exit_code == 0, result.output
        [line] = [line for line in result.stdout.splitlines() if line.startswith("Largest difference")]
        assert 0 < float(line.split()[6]) < 2e-12
        assert line.endswith(("in LinformerAttention.", "in NystromAttention."))

    def test_differing_mirror_is_named_and_nothing_is_drawn(self, tmp_path, monkeypatch):
        module = load("attention_patterns")
        compute = module.compute

        def wrong(mechanism, framework):
            found = compute(mechanism, "torch")
            if framework == "jax" and mechanism.name == "NystromAttention":
                return [each._replace(matrix=each.matrix * (1 + 1e-11)) for each in found]
            return found

        monkeypatch.setattr(module, "compute", wrong)
        result = invoke(module, "--framework", "both", "--family", "low_rank", "--output", tmp_path)
        assert result.exit_code == 1
        assert "NOT EQUAL: PyTorch and JAX are 1.0e-11 apart in NystromAttention." in result.stdout
        assert not list(tmp_path.iterdir())

    def test_unknown_family_raises_one_sentence(self, tmp_path):
        result = invoke(load("attention_patterns"), "--family", "magic", "--output", tmp_path / "new")
        assert result.exit_code == 2
        assert result.stderr.startswith("attention_patterns: family must be one of masks, basics, self")
        assert result.stderr.endswith("got magic\n")
        assert not (tmp_path / "new").exists()

    @pytest.mark.slow
    def test_whole_poster_is_the_same_in_both_frameworks(self, tmp_path):
        result = invoke(load("attention_patterns"), "--framework", "both", "--output", tmp_path)
        assert result.exit_code == 0, result.output
        assert "Largest difference between PyTorch and JAX" in result.stdout
        assert_is_a_picture(tmp_path / "attention_patterns.png")


@pytest.mark.slow
class TestPortAModel:
    def test_example_runs_to_its_end_and_draws(self, tmp_path):
        command = [sys.executable, EXAMPLES / "port_a_model.py", "--quick", "--output", tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLES.parent, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        told = done.stdout
        for sentence in (
            "Of 104 tensors, 66 stay as they are, and 37 are transposed",
            "Yes: there and back, 103 of 103 tensors are the same byte for byte.",
            "Neither PyTorch nor JAX has been loaded so far.",
            "Yes: every attention map and every embedding agrees, up to rounding.",
            "Saved from PyTorch: 104 of 104",
            "Saved from JAX: 104 of 104",
            "Doctor: the port uses the weight of k_proj without transposing it",
        ):
            assert sentence in told
        assert [line[0] for line in told.splitlines() if line[1:3] == ". "] == list("12345678")
        assert {path.name for path in tmp_path.iterdir()} == {"port_a_model.png", "port_a_model.svg"}
        assert_is_a_picture(tmp_path / "port_a_model.png")

    def test_differing_models_exit_with_1(self, tmp_path, monkeypatch):
        from attention_bridge.demo import in_jax

        encode = in_jax.encode

        def wrong(model, batch):
            result = encode(model, batch)
            return Encoded(result.embeddings + 1e-4, result.weights)

        monkeypatch.setattr(in_jax, "encode", wrong)
        result = invoke(load("port_a_model"), "--quick", "--output", tmp_path)
        assert result.exit_code == 1
        assert (
            "No: the JAX mirror diverges from PyTorch and from the reference at embeddings" in result.stdout
        )


@pytest.mark.slow
class TestPortYourOwn:
    def test_story_runs_to_its_end(self):
        result = invoke(load("port_your_own"))
        assert result.exit_code == 0, result.output
        for sentence in (
            "41 tensors of FlaxTagger are filled; the axes of 21 are moved.",
            "And back: 34 of 34 tensors are the same byte for byte.",
            "rounding explains it",
            "in `stack.1.mixer` the port attends to later positions",
            "in `stack.1` the port skips `ln2`",
            "in `stack.1` the port applies tanh-GELU where the reference applies GELU",
            "in `the model` the port does not multiply by sqrt(32)",
        ):
            assert sentence in result.stdout

    def test_port_that_is_not_equal_exits_with_1(self, monkeypatch):
        module = load("port_your_own")

        class Wrong(module.FlaxTagger):
            def __call__(self, ids):
                return 1.001 * super().__call__(ids)

        monkeypatch.setattr(module, "FlaxTagger", Wrong)
        result = invoke(module)
        assert result.exit_code == 1
        assert "NOT EQUAL" in result.stdout
