"""Common mistakes with files and the command: each raises one clear sentence, and nothing is lost."""

import io
import os
import zipfile

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from attention_bridge import checkpoints
from attention_bridge.cli import app
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained.conversion import convert_checkpoint
from attention_bridge.weights.leaves import Spec

RUNNER = CliRunner()
HUB = ("--from", "torch_attention")
TENSORS = {"q_proj.weight": np.ones((4, 4), np.float32)}


def run(*arguments):
    return RUNNER.invoke(app, [*map(str, arguments)])


@pytest.fixture
def source(tmp_path):
    checkpoints.write(tmp_path / "source.safetensors", TENSORS)
    return tmp_path / "source.safetensors"


@pytest.mark.parametrize("name", ["x.npz", "x.pt", "x.keras"])
def test_empty_zip_raises(tmp_path, name):
    zipfile.ZipFile(tmp_path / name, "w").close()
    with pytest.raises(CheckpointError) as refused:
        checkpoints.open(tmp_path / name)
    assert "argument" not in str(refused.value)


@pytest.mark.parametrize("content", [b"hello world", b"g", b"<html>not found</html>", b"\x80\x02h\x05."])
def test_text_file_named_pt_raises(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(
        CheckpointError,
        match=r"is a text that begins|is a web page|no file of torch.save: its pickle is damaged",
    ):
        checkpoints.open(tmp_path / "x.pt")


@pytest.mark.parametrize("command", [("inspect", ""), ("convert", "", "x.npz"), ("convert", "x.npz", "")])
def test_empty_path_is_not_the_current_directory(source, monkeypatch, command):
    monkeypatch.chdir(source.parent)
    done = run(*command, *(HUB if command[0] == "convert" else ()))
    assert done.exit_code == 2
    assert "empty" in done.output
    assert [entry.name for entry in source.parent.iterdir()] == [source.name]


def test_empty_target_raises(source):
    with pytest.raises(InputError, match="empty"):
        convert_checkpoint(source, "", "torch_attention", "torch_attention")


def test_source_without_tensors_is_not_converted(tmp_path):
    checkpoints.write(tmp_path / "none.safetensors", {})
    done = run("convert", tmp_path / "none.safetensors", tmp_path / "x.npz", *HUB)
    assert (done.exit_code, "holds no tensors" in done.output) == (2, True)
    assert not (tmp_path / "x.npz").exists()


def test_missing_axis_size_names_the_option(source):
    done = run("convert", source, source.with_name("x.npz"), *HUB, "--to", "keras.mha")
    assert "--axis h=" in done.output


def test_endless_configuration_raises(source):
    done = run("convert", source, source.with_name("x.npz"), "--config", "/dev/zero")
    assert (done.exit_code, "at most" in done.output) == (2, True)


class TestLinkAsTarget:
    @pytest.mark.parametrize("to", ["other.safetensors", "nowhere.safetensors"])
    def test_link_is_replaced_only_with_force_and_its_target_stays(self, source, to):
        other, link = source.with_name("other.safetensors"), source.with_name("link.safetensors")
        other.write_bytes(b"precious")
        link.symlink_to(to)
        done = run("convert", source, link, *HUB)
        assert (done.exit_code, link.is_symlink()) == (2, True)
        assert run("convert", source, link, *HUB, "--force").exit_code == 0
        assert not link.is_symlink()
        assert other.read_bytes() == b"precious"
        assert not source.with_name("nowhere.safetensors").exists()

    def test_link_to_the_source_raises(self, source):
        link = source.with_name("link.safetensors")
        link.symlink_to(source)
        assert run("convert", source, link, *HUB, "--force").exit_code == 2
        assert checkpoints.read(source).keys() == TENSORS.keys()


def test_pipe_as_target_raises(source):
    pipe = source.with_name("x.npz")
    os.mkfifo(pipe)
    done = run("convert", source, pipe, *HUB, "--force")
    assert (done.exit_code, pipe.is_fifo()) == (2, True)
    specs = {name: Spec(x.shape, x.dtype) for name, x in TENSORS.items()}
    with pytest.raises(CheckpointError, match="neither a file nor a directory"):
        checkpoints.save(pipe, TENSORS.items(), specs)


def test_old_pickle_protocols_are_read(tmp_path):
    for protocol in (2, 3):
        held = io.BytesIO()
        torch.save({"a": torch.ones(3)}, held, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
        (tmp_path / "x.pt").write_bytes(held.getvalue())
        with checkpoints.open(tmp_path / "x.pt") as reader:
            assert reader.read("a").tolist() == [1, 1, 1]
