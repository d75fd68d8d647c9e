"""The command `draft-layout`, and layouts in files as options of `convert`: output and bad input."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from attention_bridge import checkpoints
from attention_bridge.cli import app
from attention_bridge.weights.layout_files import read_layout


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    return done.exit_code, done.output


def read(path: Path) -> dict[str, np.ndarray]:
    with checkpoints.open(checkpoints.find(path)) as reader:
        return dict(reader.items())


@pytest.fixture
def pair(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, Path]:
    """A checkpoint with tied tensors and a trainer's prefix, and another one of the same model."""
    table = rng.standard_normal((7, 4)).astype(np.float32)
    first = {
        "wte.weight": table,
        "h.0.fc.weight": rng.standard_normal((5, 4)).astype(np.float32),
        "h.0.fc.bias": rng.standard_normal(5).astype(np.float32),
        "lm_head.weight": table,
    }
    second = {
        "embed.embedding": np.zeros((7, 4), np.float32),
        "layers.0.dense.kernel": np.zeros((4, 5), np.float32),
        "layers.0.dense.bias": np.zeros(5, np.float32),
    }
    np.savez(tmp_path / "a.npz", **first)
    np.savez(tmp_path / "b.npz", **second)
    return tmp_path / "a.npz", tmp_path / "b.npz"


def test_drafted_file_converts_both_ways(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = pair
    for output, given in ((tmp_path / "mine.toml", "mine.toml"), (tmp_path / "mine.py", "mine.py:MINE")):
        code, said = run("draft-layout", a, b, "--output", output)
        assert code == 0, said
        assert "0 guesses" in said
        layout = read_layout(str(tmp_path / given))
        assert [each.name for each in layout.tied] == ["lm_head.weight"]
        target = tmp_path / f"{output.suffix[1:]}.npz"
        code, said = run("convert", a, target, "--from", tmp_path / given, "--to", "plain")
        assert code == 0, said
        found = read(target)
        assert {name: x.shape for name, x in found.items()} == {name: x.shape for name, x in read(b).items()}
        back = target.with_suffix(".safetensors")
        code, said = run("convert", target, back, "--from", "plain", "--to", tmp_path / given)
        assert code == 0, said
        assert read(back)["h.0.fc.weight"].tobytes() == read(a)["h.0.fc.weight"].tobytes()


def test_source_is_printed(pair: tuple[Path, Path]) -> None:
    code, said = run("draft-layout", *pair, "--name", "other")
    assert code == 0
    assert "OTHER = Layout(" in said
    code, said = run("draft-layout", *pair, "--toml")
    assert code == 0
    assert "[[rules]]" in said


def test_bad_input_is_refused_in_one_line(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = pair
    (tmp_path / "there.py").write_text("")
    np.savez(tmp_path / "c.npz", other=np.zeros((3, 2)))
    for arguments, expected in (
        (("draft-layout", a, b, "--output", tmp_path / "x.txt"), "must end in .py or .toml"),
        (("draft-layout", a, b, "--output", tmp_path / "there.py"), "--force overwrites it"),
        (("draft-layout", a, b, "--rename", "blocks"), "--rename must be two names"),
        (("draft-layout", a, tmp_path / "c.npz"), "no place"),
        (("draft-layout", a, tmp_path / "none.npz"), "none.npz"),
        (("convert", a, tmp_path / "x.npz", "--from", tmp_path / "none.toml"), "--from"),
        (("convert", a, tmp_path / "x.npz", "--from", f"{tmp_path / 'there.py'}:MINE"), "must be a Layout"),
    ):
        code, said = run(*arguments)
        assert code == 2, said
        assert expected in said
        assert len(said.splitlines()) == 1


def test_inspect_names_the_next_step(pair: tuple[Path, Path]) -> None:
    code, said = run("inspect", pair[0])
    assert code == 0
    assert "draft-layout" in said
