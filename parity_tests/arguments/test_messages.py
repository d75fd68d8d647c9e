"""Messages are lines of at most 300 printable characters, for any content of a file."""

import numpy as np
import pytest
from typer.testing import CliRunner

from attention_bridge import checkpoints, weights
from attention_bridge.cli import app
from attention_bridge.errors import LONGEST_MESSAGE, CheckpointError, ConversionError, cut, printable
from parity_tests.helpers.checkpoint_samples import save

NAMES = ("n" * 300, "a\nb", "\x1b[31mred", "tab\tand \u202e turned", "ordinary.weight")


def lines(text):
    found = text.rstrip("\n").split("\n")
    assert all(len(line) <= 300 and line.isprintable() for line in found), found
    return found


def test_error_leaves_out_the_middle_of_a_long_message(tmp_path):
    error = CheckpointError("beginning " + "x" * 5000 + " end\n")
    assert len(str(error)) <= LONGEST_MESSAGE
    assert str(error).startswith("beginning")
    assert str(error).endswith(r"end\n")
    assert len(error.whole) > 5000
    assert cut("short") == printable("short") == "short"


@pytest.mark.parametrize("name", NAMES)
def test_reader_reports_any_name_in_one_line(tmp_path, name):
    save(tmp_path / "x.safetensors", {name: np.ones(2)})
    with checkpoints.open(tmp_path / "x.safetensors") as reader, pytest.raises(CheckpointError) as found:
        reader.read(name + "?")
    assert len(lines(str(found.value))) == 1


def test_conversion_faults_are_a_sentence_and_a_table():
    tensors = {name: np.ones((2, 3), np.float32) for name in NAMES}
    with pytest.raises(ConversionError) as found:
        weights.convert(tensors, "hf.gpt2", "torch_attention")
    first, blank, header, *rows = lines(str(found.value))
    assert first.startswith("Cannot convert hf.gpt2 to torch_attention")
    assert first.endswith(".")
    assert not blank
    assert header.split() == ["name", "fault", "expected", "given"]
    assert len(rows) >= len(NAMES)
    assert {fault.name for fault in found.value.faults} >= set(NAMES)


@pytest.mark.parametrize("arguments", [["inspect"], ["convert"], ["convert", "--allow-unknown", "--explain"]])
def test_commands_print_lines(tmp_path, arguments):
    command, *options = arguments
    names = [name for name in NAMES if not (options and "\n" in name)]  # no rule matches these names
    save(tmp_path / "x.safetensors", {name: np.full((2, 3), np.nan, np.float32) for name in names})
    places = [str(tmp_path / name) for name in ("x.safetensors", "y.safetensors")]
    given = places[:1] if command == "inspect" else [*places, "--from", "torch_attention", *options]
    done = CliRunner().invoke(app, [command, *given])
    assert done.exit_code == (2 if arguments == ["convert"] else 0), done.output
    assert all(line.isprintable() for line in done.output.split("\n"))
    lines(done.stderr)
    assert "Traceback" not in done.output
