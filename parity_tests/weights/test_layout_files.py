"""Layouts in TOML and Python files, wrappers of trainers, and rules that cut or reorder with patterns."""

from pathlib import Path

import numpy as np
import pytest

from attention_bridge.errors import ConversionError, InputError
from attention_bridge.weights import Dropped, JoinedRule, Layout, ReorderedRule, Rule, Tied, convert
from attention_bridge.weights.explanation import words
from attention_bridge.weights.layout_files import is_layout_file, read_layout

TOML = """
name = "mine"
spellings = [["old.{rest}", "new.{rest}"]]
[axes]
h = 2
queries = 4
keys = 2
[[rules]]
theirs = "new.{n}.weight"
hub = "blocks.{n}.kernel"
pattern = "o i -> i o"
[[rules]]
kind = "JoinedRule"
theirs = "qkv"
hub = "{q,k,v}"
rows = "queries, keys, keys"
fused = "i o -> o i"
parts = "o i -> i o"
[[rules]]
kind = "ReorderedRule"
theirs = "kqv"
hub = "qkv3"
pattern = "(three o) -> (three o)"
axis = "three"
order = [1, 0, 2]
[[tied]]
name = "head"
to = "qkv"
reason = "tied"
[[dropped]]
name = "mask"
reason = "computed"
"""
MINE = Layout(
    "mine",
    rules=(
        Rule("new.{n}.weight", "blocks.{n}.kernel", "o i -> i o"),
        JoinedRule("qkv", "{q,k,v}", "queries, keys, keys", fused="i o -> o i", parts="o i -> i o"),
        ReorderedRule("kqv", "qkv3", "(three o) -> (three o)", "three", (1, 0, 2)),
    ),
    spellings=(("old.{rest}", "new.{rest}"),),
    tied=(Tied("head", "qkv", "tied"),),
    dropped=(Dropped("mask", "computed"),),
    axes=(("h", 2), ("queries", 4), ("keys", 2)),
)


def tensors(rng: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = {"new.0.weight": (3, 5), "new.1.weight": (3, 5), "qkv": (7, 8), "kqv": (6,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_toml_and_python_files_hold_the_same_layout(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TOML)
    names = "Dropped, JoinedRule, Layout, ReorderedRule, Rule, Tied"
    (tmp_path / "mine.py").write_text(
        f"from attention_bridge.weights import {names}\nMINE = {MINE!r}\nOTHER = 3\n"
    )
    assert read_layout(str(tmp_path / "mine.toml")) == MINE
    assert read_layout(f"{tmp_path / 'mine.py'}:MINE") == MINE
    assert is_layout_file("mine.py:MINE")
    assert is_layout_file("mine.toml")
    assert not is_layout_file("hf.gpt2")


def test_rules_with_patterns_convert_and_return_the_same_bytes(rng: np.random.Generator) -> None:
    given = tensors(rng)
    found, _ = convert(given, MINE, "plain")
    assert np.array_equal(found["q"], given["qkv"][:, :4])
    assert np.array_equal(found["k"], given["qkv"][:, 4:6])
    assert np.array_equal(found["v"], given["qkv"][:, 6:])
    assert np.array_equal(found["qkv3"], given["kqv"][[2, 3, 0, 1, 4, 5]])
    back, _ = convert(found, "plain", MINE)
    assert {name: x.tobytes() for name, x in back.items()} == {name: x.tobytes() for name, x in given.items()}


REFUSED = {
    "no TOML": ("name = ", "is no TOML"),
    "no rules": ('name = "mine"', "at least one table"),
    "an unknown field": ('name = "a"\nrule = 3\n[[rules]]\nhub = "a"', "unknown field 'rule'"),
    "a rule without a name": ('name = "a"\n[[rules]]\nhub = "a"', "rule 1 needs their"),
    "a rule of another kind": ('name = "a"\n[[rules]]\nkind = "Code"\nhub = "a"', "kind must be one of"),
    "a number for a name": ('name = "a"\n[[rules]]\nhub = "a"\ntheirs = 3', "must be of type str"),
    "no inverse": (
        'name = "a"\n[[rules]]\nhub = "a"\ntheirs = "b"\npattern = "i o -> o"',
        "each axis occurs once",
    ),
    "an axis without a size": (
        'name = "a"\n[axes]\nh = "b"\n[[rules]]\nhub = "a"\ntheirs = "b"',
        "axes must be",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_toml_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    content, expected = REFUSED[name]
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=expected) as error:
        read_layout(str(file))
    assert "\n" not in str(error.value)


def test_missing_files_and_constants_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("MINE = 3\n")
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    for text, expected in (
        (str(tmp_path / "none.toml"), "No such file"),
        (f"{tmp_path / 'none.py'}:MINE", "no such Python file"),
        (f"{file}:MINE", "must be a Layout"),
        (str(file), "a file and a constant"),
        (f"{broken}:MINE", "ZeroDivisionError"),
    ):
        with pytest.raises(InputError, match=expected):
            read_layout(text)


@pytest.mark.parametrize(
    "prefix", ["model.", "module.", "model.module._orig_mod.", "ema.", "ema_model.module.", "shadow."]
)
def test_prefix_of_a_trainer_is_removed(prefix: str, rng: np.random.Generator) -> None:
    given = tensors(rng)
    wrapped = {prefix + name: x for name, x in given.items()}
    expected, _ = convert(given, MINE, "plain")
    found, _ = convert(wrapped, MINE, "plain")
    assert {name: x.tobytes() for name, x in found.items()} == {
        name: x.tobytes() for name, x in expected.items()
    }


def test_averages_and_optimizer_states_beside_the_weights_are_dropped(rng: np.random.Generator) -> None:
    given = tensors(rng)
    file = {f"model.{name}": x for name, x in given.items()} | {
        f"ema.{name}": 2 * x for name, x in given.items()
    }
    file["optimizer.state.0.exp_avg"] = given["kqv"]
    found, report = convert(file, MINE, "plain")
    assert np.array_equal(found["q"], given["qkv"][:, :4])
    assert len(report.ignored) == len(given) + 1


def test_unknown_prefix_is_a_fault(rng: np.random.Generator) -> None:
    with pytest.raises(ConversionError, match="unexpected"):
        convert({f"student.{name}": x for name, x in tensors(rng).items()}, MINE, "plain")


def test_reordered_rule_is_described_and_checked() -> None:
    assert words("take three in the order 1, 0, 2") == "take three in the order 1, 0, 2"
    with pytest.raises(ValueError, match="order must have"):
        ReorderedRule("a", "b", "(two o) -> (two o)", "two", (1, 1))
    with pytest.raises(ValueError, match="axis must be"):
        ReorderedRule("a", "b", "(two o) -> (two o)", "three", (1, 0))
    with pytest.raises(ValueError, match="one tensor on each side"):
        ReorderedRule("a", "{b,c}", "(two o) -> two o", "two", (1, 0))
    with pytest.raises(ValueError, match="one pattern for all parts"):
        JoinedRule("a", "{b,c}", "o, o", parts="o -> o, o -> o, o -> o")
    assert "a".join(ReorderedRule("a", "b", "(two o) -> (two o)", "two", (1, 0)).within("x").hub) == "xa.ab"
