"""Files and directories that hold no whole checkpoint: one line names the file, its kind and the remedy."""

import bz2
import gzip
import io
import json
import lzma
import shutil
import tarfile
import zipfile

import numpy as np
import pytest

from attention_bridge import checkpoints
from attention_bridge.checkpoints import format_detection
from attention_bridge.checkpoints.directories import OTHER_FRAMEWORKS
from attention_bridge.checkpoints.wrong_files import UNFINISHED, check_file
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained import read_pretrained
from attention_bridge.pretrained.config_files import CONFIGS

TENSORS = {"a.weight": np.ones((30, 40), np.float32), "b.weight": np.ones((20, 50), np.float32)}
SINGLE = (
    "model.safetensors",
    "pytorch_model.bin",
    "flax_model.msgpack",
    "model.gguf",
    "model.weights.h5",
    "x.npz",
)


def tar(name="config.json"):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return held.getvalue()


def zipped():
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("config.json", "{}")
    return held.getvalue()


CONTENTS = {
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 437971872\n",
        "is a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    "HTML": (
        b"<!DOCTYPE html>\n<html class=''>\n<head>",
        "is a web page, not the file itself: download it again",
    ),
    "HTML after a mark and spaces": (b"\xef\xbb\xbf\n  <HTML><body>", "is a web page, not the file itself"),
    "XML": (
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "is an XML text, not the file itself",
    ),
    "zeros": (bytes(5000), "is an unfinished download: it begins with 512 zero bytes; download it again"),
    "tar": (tar(), "is an archive (tar): unpack it"),
    "gzip": (gzip.compress(tar()), "is an archive (gzip): unpack it"),
    "xz": (lzma.compress(tar()), "is an archive (xz): unpack it"),
    "bzip2": (bz2.compress(tar()), "is an archive (bzip2): unpack it"),
}
TEXTS = {
    "an error": (
        b"Entry not found",
        "is a text that begins with 'Entry not found', and holds no tensors: download it",
    ),
    "an error in JSON": (
        b'{"error": "Invalid token"}',
        'is a text that begins with \'{"error": "Invalid token"}\'',
    ),
    "a long text": (("né\n" * 999).encode(), "is a text that begins with 'né né"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Directories with a configuration and weights: `single` and `shards`."""
    root = tmp_path_factory.mktemp("made")
    for name in ("single", "shards"):
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps({"model_type": "llama"}))
    checkpoints.write(root / "single" / "model.safetensors", TENSORS)
    specs = {name: checkpoints.Spec(x.shape, x.dtype) for name, x in TENSORS.items()}
    checkpoints.save(root / "shards" / "model.safetensors", TENSORS.items(), specs, max_shard_bytes=5000)
    return root


@pytest.fixture
def directory(made, tmp_path):
    """An editable copy of the single one."""
    return shutil.copytree(made / "single", tmp_path / "copy")


@pytest.fixture
def shards(made, tmp_path):
    """An editable copy of the one in shards."""
    return shutil.copytree(made / "shards", tmp_path / "parts")


def refusal(path, named=None):
    """The message raised for a path; it begins with the path that is named, is one line, and nothing is cut off."""
    with pytest.raises(CheckpointError) as raised:
        checkpoints.open(path)
    with pytest.raises(CheckpointError) as again:
        read_pretrained(path)
    message = raised.value.whole
    assert message == again.value.whole
    assert message.startswith(f"{named or path} ")
    assert "\n" not in message
    return message.removeprefix(f"{named or path} ")


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("what", CONTENTS | TEXTS)
def test_other_content_under_the_name_of_weights(directory, name, what):
    content, said = (CONTENTS | TEXTS)[what]
    (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(content)
    assert refusal(directory, directory / name).startswith(said)
    assert refusal(directory / name).startswith(said)


@pytest.mark.parametrize("what", CONTENTS | TEXTS)
def test_other_content_in_a_shard(shards, what):
    content, said = (CONTENTS | TEXTS)[what]
    shard = shards / "model-00002-of-00002.safetensors"
    shard.write_bytes(content)
    assert refusal(shards, shard).startswith(said)


@pytest.mark.parametrize("what", CONTENTS)
def test_other_content_in_a_text_file(directory, shards, what):
    content, said = CONTENTS[what]
    for name in ("config.json", "model.safetensors.index.json", "tokenizer.json"):
        (shards / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=r"^[^ ]*json ") as raised:
            check_file(shards / name, text=True)
        assert said in str(raised.value)
    assert said in refusal(shards, shards / "model.safetensors.index.json")


@pytest.mark.parametrize("what", CONTENTS)
def test_other_content_in_the_configuration(directory, what):
    content, said = CONTENTS[what]
    (directory / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        read_pretrained(directory)
    assert str(raised.value).startswith(f"{directory / 'config.json'} {said}")


def test_empty_file_is_named(directory, shards):
    for path in (shards / "model-00001-of-00002.safetensors", shards / "model.safetensors.index.json"):
        path.write_bytes(b"")
        assert refusal(shards, path).startswith("is empty")
    (directory / "model.safetensors").write_bytes(b"")
    assert refusal(directory, directory / "model.safetensors") == "is empty"


def test_zip_file_of_other_things(directory):
    (directory / "x.zip").write_bytes(zipped())
    said = "is no checkpoint, and may have to be unpacked: it is a zip file of other things than tensors"
    assert refusal(directory / "x.zip") == said


@pytest.mark.parametrize("suffix", UNFINISHED)
def test_unfinished_download(directory, shards, suffix):
    for path in (directory, shards):
        for file in sorted(path.iterdir()):
            unfinished = file.with_name(file.name + suffix)
            file.rename(unfinished)
            assert refusal(unfinished) == "is an unfinished download: download it again"
            with pytest.raises(CheckpointError, match=f"{file.name}{suffix}.*download it again"):
                read_pretrained(path)
            unfinished.rename(file)


def test_download_beside_which_the_client_left_its_state(directory):
    (directory / "model.safetensors.aria2").touch()
    assert refusal(directory, directory / "model.safetensors").startswith("is an unfinished download")


def test_unfinished_download_of_the_hub_into_a_directory(directory):
    (directory / "model.safetensors").unlink()
    held = directory / ".cache" / "huggingface" / "download"
    held.mkdir(parents=True)
    (held / "abc.incomplete").write_bytes(b"x")
    assert refusal(directory).startswith(
        "holds an unfinished download, .cache/huggingface/download/abc.incomplete"
    )


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "weights.npz"])
def test_truncated_file(directory, name):
    (directory / "model.safetensors").unlink()
    specs = {name: checkpoints.Spec(x.shape, x.dtype) for name, x in TENSORS.items()}
    checkpoints.save(directory / name, TENSORS.items(), specs)
    content = (directory / name).read_bytes()
    for size in (len(content) // 2, len(content) - 30):
        (directory / name).write_bytes(content[:size])
        said = refusal(directory, directory / name)
        assert said.startswith("is truncated: ")
        assert said.endswith("; download or copy it again")
    if name.endswith("safetensors"):
        assert f"it has {size} bytes, and its tensors end at {len(content)}" in said


@pytest.mark.parametrize("files", [("config.json",), ("tokenizer.json", "vocab.txt"), ("spiece.model",)])
def test_directory_without_weights(tmp_path, files):
    for name in files:
        (tmp_path / name).write_text("{}")
    said = refusal(tmp_path)
    assert said.startswith(
        "has no weights: expected model.safetensors, pytorch_model.bin, or one of them in shards"
    )
    assert said.endswith(f"it holds {', '.join(files)}")


@pytest.mark.parametrize("pattern", OTHER_FRAMEWORKS)
def test_weights_of_another_framework(directory, pattern):
    name = pattern.replace("*", "01")
    (directory / "model.safetensors").rename(directory / name)
    said = f"has no weights but {name} ({OTHER_FRAMEWORKS[pattern]}), which is not read: download or export model.saf"
    assert refusal(directory).startswith(said)


@pytest.mark.parametrize("name", ["model.zip", "model.tar.gz"])
def test_archive_in_a_directory(directory, name):
    (directory / "model.safetensors").rename(directory / name)
    assert refusal(directory) == f"has no weights but an archive, {name}: unpack it"


def test_files_of_a_training_run_are_no_weights(directory):
    shutil.copy(directory / "model.safetensors", directory / "optimizer.safetensors")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        (directory / name).write_bytes(b"\x80\x02.")
    (directory / "model.safetensors").rename(directory / "weights.safetensors")
    assert checkpoints.find(directory).path == directory / "weights.safetensors"
    (directory / "weights.safetensors").unlink()
    assert refusal(directory).startswith("has no weights: ")


def test_several_checkpoints(directory):
    shutil.copy(directory / "model.safetensors", directory / "a.safetensors")
    (directory / "model.safetensors").rename(directory / "b.safetensors")
    assert refusal(directory).startswith(
        "has 2 checkpoints: give one of them, such as a.safetensors, b.safetensors; "
    )


def test_shards_without_their_index(shards):
    (shards / "model.safetensors.index.json").unlink()
    said = "has model-00001-of-00002.safetensors, but not its index model.safetensors.index.json, without which it is"
    assert refusal(shards).startswith(said)
    (shards / "model-00002-of-00002.safetensors").unlink()
    assert refusal(shards).startswith(said)


def test_missing_shards_are_named(shards):
    for i in (2, 1):
        (shards / f"model-0000{i}-of-00002.safetensors").unlink()
        said = refusal(shards, shards / "model.safetensors.index.json")
        assert said.startswith(f"names shards that are missing: model-0000{i}-of-00002.safetensors")
        assert i == 1 or "; download them; " in said


def test_directories_with_checkpoints_below(made, tmp_path):
    shutil.copytree(made / "single", tmp_path / "run" / "checkpoint-500")
    assert refusal(tmp_path / "run").endswith("give one of them, such as checkpoint-500")
    shutil.copytree(made / "shards", tmp_path / "models--a--b" / "snapshots" / "0123")
    (tmp_path / "models--a--b" / "refs").mkdir()
    assert refusal(tmp_path / "models--a--b").endswith("give one of them, such as snapshots/0123")


def test_broken_links(directory):
    for name in ("config.json", "model.safetensors"):
        (directory / name).unlink()
        (directory / name).symlink_to("../blobs/0123")
        with pytest.raises(CheckpointError, match=rf"^{directory / name} .*(No such file|does not exist)"):
            read_pretrained(directory)
        with pytest.raises(CheckpointError, match=rf"^{directory / name} .*(No such file|does not exist)"):
            read_pretrained(directory / name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_file_beside_the_weights_leads_to_its_directory(directory, name):
    (directory / name).write_text("{}")
    assert refusal(directory / name).endswith(f"give its directory, {directory}")


@pytest.mark.parametrize("name", CONFIGS)
def test_directory_in_place_of_the_configuration(directory, name):
    (directory / "config.json").unlink()
    (directory / name).mkdir()
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read: Is a directory"):
        read_pretrained(directory)


def test_whole_files_pass(made):
    for path in sorted(made.glob("*/*")):
        check_file(path, text=path.suffix == ".json")
    assert format_detection.find(made / "shards").format == "safetensors index"
