"""The command `plot`: weights from a file become a page or a picture, or one sentence and exit code 2."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import attention_bridge
from attention_bridge import plots
from attention_bridge.cli import app
from attention_bridge.errors import InputError
from attention_bridge.plots import to_file

QUERIES, KEYS = ["a", "</script>", "c"], ["w", "x", "y", "z"]


@pytest.fixture
def weights(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return rng.random((12, 2, 3, 4)).astype(np.float32)  # layers heads query key


def run(*arguments):
    return CliRunner().invoke(app, ["plot", *map(str, arguments)])


def page(path):
    """The data of a page, and its weights."""
    data = json.loads(re.search(r'id="data">(.*?)</script>', path.read_text())[1])
    shape = data["layers"], data["heads"], len(data["queries"]), len(data["keys"] or data["queries"])
    return data, np.frombuffer(base64.b64decode(data["weights"]), "<f2").reshape(shape)


def test_stacked_array_and_array_per_layer_give_the_same_page(weights, tmp_path):
    np.savez("one.npz", anything=weights, tokens=np.array(QUERIES), key_tokens=np.array(KEYS))
    save_file({f"layer.{i}.weights": layer for i, layer in enumerate(weights)}, "many.safetensors")
    for source in ("one.npz", "many.safetensors"):
        options = ["--tokens", ",".join(QUERIES), "--key-tokens", ",".join(KEYS)] * (source != "one.npz")
        result = run(source, "-o", "out.html", "--layer", 3, "--head", 1, *options)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("out.html: ")
        data, held = page(tmp_path / "out.html")
        np.testing.assert_array_equal(held, weights.astype(np.float16))
        assert (data["queries"], data["keys"], data["layer"], data["head"]) == (QUERIES, KEYS, 3, 1)


def test_tokens_come_from_a_file_or_default_to_numbers(weights, tmp_path):
    np.savez("w.npz", weights[0])
    (tmp_path / "words.txt").write_text("é,\nb\nc\n", encoding="utf-8")
    assert run("w.npz", "-o", "out.html", "--tokens", "@words.txt").exit_code == 0
    data, _ = page(tmp_path / "out.html")
    assert (data["queries"], data["keys"]) == (["é,", "b", "c"], ["0", "1", "2", "3"])


@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("grid", None, None)),
        (["--layer", 1], ("grid", [1], None)),
        (["--head", 1], ("grid", None, [1])),
        (["--layer", 1, "--head", 0], ("one", 1, 0)),
    ],
)
def test_layer_and_head_select_the_picture(weights, tmp_path, monkeypatch, ending, options, expected):
    drawn = []

    def grid(given, queries, keys, **chosen):
        drawn.append(("grid", chosen["layers"], chosen["heads"]))
        return plots.draw_mask(np.ones((2, 2), bool))

    def one(layer, queries, keys, *, head, title):
        [number] = [i for i, each in enumerate(weights) if np.array_equal(each, layer)]
        drawn.append(("one", number, head))
        return plots.draw_mask(np.ones((2, 2), bool))

    monkeypatch.setattr(to_file, "head_grid", grid)
    monkeypatch.setattr(to_file, "one_head", one)
    np.savez("w.npz", weights)
    assert run("w.npz", "-o", f"out.{ending}", *options).exit_code == 0
    assert drawn == [expected]
    assert (tmp_path / f"out.{ending}").stat().st_size > 1000


def test_picture_is_drawn_of_a_whole_file(weights, tmp_path):
    np.savez("w.npz", weights[:2], tokens=np.array(QUERIES))
    for options in ([], ["--layer", 0, "--head", 1]):
        assert run("w.npz", "-o", "out.png", *options).exit_code == 0
        assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.npz", "-o", "a.png"], "none.npz does not exist"),
        (["w.npz", "-o", "a.gif"], "--output must end in .html, .png or .svg, got a.gif"),
        (
            ["w.npz", "-o", "none/a.png"],
            "--output must be in a directory that exists, but none does not exist",
        ),
        (["w.npz", "-o", "a.png", "--layer", "12"], "--layer must be from 0 to 11, got 12"),
        (["w.npz", "-o", "a.html", "--head", "2"], "--head must be from 0 to 1, got 2"),
        (
            ["w.npz", "-o", "a.png", "--tokens", "a,b"],
            "--tokens must be 3 labels, as the shape of the weights needs, got 2",
        ),
        (
            ["w.npz", "-o", "a.html", "--tokens", "@no"],
            "--tokens @no cannot be read: No such file or directory",
        ),
        (["flat.npz", "-o", "a.html"], "w in flat.npz must have shape (layers, heads, query, key), "),
        (["words.npz", "-o", "a.html"], "words.npz holds no weights"),
        (["nan.npz", "-o", "a.png"], "weights[0] must be finite, got 1 of 24 that are not"),
        (["uneven.npz", "-o", "a.html"], "weights[1] must have the shape of weights[0]"),
        (
            ["text.npz", "-o", "a.html"],
            "text.npz is truncated: it begins as a zip file, but its end is missing",
        ),
        (["model.pt", "-o", "a.html"], "model.pt"),
    ],
)
def test_bad_input_gives_one_sentence_and_exit_code_2(weights, tmp_path, arguments, sentence):
    np.savez("w.npz", weights)
    np.savez("flat.npz", w=weights[0, 0, 0])
    np.savez("words.npz", tokens=np.array(QUERIES))
    broken = weights.copy()
    broken[0, 1, 2, 3] = np.nan
    np.savez("nan.npz", broken)
    np.savez("uneven.npz", a=weights[0], b=weights[0, :, 1:])
    (tmp_path / "text.npz").write_bytes(b"PK\x03\x04" + b"no zip" * 20)
    (tmp_path / "model.pt").write_bytes(b"no model at all")
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("attention-bridge: ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("a.*"))


def test_function_draws_the_same_as_the_command(weights, tmp_path):
    np.savez("w.npz", weights)
    assert run("w.npz", "-o", "command.html", "--layer", 1).exit_code == 0
    assert attention_bridge.plot(list(weights), "function.html", layer=1, title="w") == Path("function.html")
    assert (tmp_path / "function.html").read_text() == (tmp_path / "command.html").read_text()
    attention_bridge.plot(weights[0], "one.png", head=0)
    assert (tmp_path / "one.png").stat().st_size > 1000
    for output, message in (("w.txt", "output must end in .html, .png or .svg"), ("no/w.png", "that exists")):
        with pytest.raises(InputError, match=message):
            attention_bridge.plot(weights[0], output)
