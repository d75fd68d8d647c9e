"""A source that is replaced or overwritten during reading: the header of one file never meets values of another."""

import os

import numpy as np
import pytest

from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec

FILES = ["x.safetensors", "x.npz", "x.pt", "x.h5", "x.msgpack"]


def save(path, value):
    tensors = {name: np.full((8, 8), value, np.float32) for name in ("a", "b")}
    checkpoints.save(path, tensors.items(), {name: Spec(x.shape, x.dtype) for name, x in tensors.items()})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("way", ["replaced", "grown", "written into"])
def test_changed_file_raises(tmp_path, name, way):
    path = tmp_path / name
    save(path, 1)
    with checkpoints.open(path) as reader:
        assert (reader.read("a") == 1).all()
        if way == "replaced":
            save(path, 2)
        elif way == "grown":
            with path.open("ab") as file:
                file.write(b"more")
        else:
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.seek(size // 2)
                file.write(b"\xff\xff")
            os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        with pytest.raises(CheckpointError, match=r"was changed while it was read|is damaged"):
            reader.read("b")


def test_changed_shard_raises(tmp_path):
    tensors = {name: np.ones((8, 8), np.float32) for name in ("a", "b")}
    specs = {name: Spec(x.shape, x.dtype) for name, x in tensors.items()}
    checkpoints.save(tmp_path / "model.safetensors", tensors.items(), specs, max_shard_bytes=256)
    with checkpoints.open(tmp_path) as reader:
        [shard] = tmp_path.glob("*2-of-*")
        other = tmp_path / "other"
        other.write_bytes(shard.read_bytes()[:-4] + bytes(4))
        other.replace(shard)
        assert (reader.read("a") == 1).all()
        with pytest.raises(CheckpointError, match="was changed while it was read"):
            reader.read("b")


@pytest.mark.parametrize("name", FILES)
def test_file_saved_over_itself_is_read_completely(tmp_path, name):
    path = tmp_path / name
    save(path, 1)
    with checkpoints.open(path) as reader:
        checkpoints.save(path, reader.items(), reader.specs)
    with checkpoints.open(path) as reader:
        assert all((x == 1).all() for _, x in reader.items())
