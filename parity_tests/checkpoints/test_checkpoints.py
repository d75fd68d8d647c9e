"""Checkpoints on disk: exact in every dtype, atomic writes, one sentence for every bad file."""

import json
import os
import stat
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError


def random_bits(shape, dtype, seed=0):
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(count), dtype).reshape(shape)


def bits(tensors):
    return {name: (a.shape, a.dtype, a.tobytes()) for name, a in tensors.items()}


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def tensors():
    return {"b.weight": random_bits((3, 5), np.float32), "a": random_bits((7,), ml_dtypes.bfloat16, 1)}


def shard(directory, **shards):
    """Save shards, with an index from tensors to shards."""
    weight_map = {}
    for stem, tensors in shards.items():
        safetensors.numpy.save_file(tensors, directory / f"{stem}.safetensors")
        weight_map |= dict.fromkeys(tensors, f"{stem}.safetensors")
    (directory / checkpoints.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", checkpoints.DTYPES.values(), ids=checkpoints.DTYPES)
    def test_every_dtype_survives_bit_for_bit(self, tmp_path, dtype):
        bytes_of_bools = random_bits((2, 3), np.uint8) % 2
        tensor = bytes_of_bools.view(dtype) if dtype == np.bool_ else random_bits((2, 3), dtype)
        tensors = {"matrix": tensor, "scalar": tensor[0, 0, ...].copy(), "nothing": tensor[:0]}
        checkpoints.write(tmp_path / "x.safetensors", tensors)
        assert bits(checkpoints.read(tmp_path / "x.safetensors")) == bits(tensors)

    def test_transposed_strided_and_big_endian_arrays_keep_their_values(self, tmp_path):
        matrix = random_bits((4, 6), np.float32)
        swapped = np.arange(3, dtype=">f4")
        views = {"transposed": matrix.T, "strided": matrix[::2, ::3], "big_endian": swapped}
        checkpoints.write(tmp_path / "x.safetensors", views)
        back = checkpoints.read(tmp_path / "x.safetensors")
        assert back["transposed"].tobytes() == matrix.T.tobytes()
        assert back["strided"].tobytes() == matrix[::2, ::3].tobytes()
        np.testing.assert_array_equal(back["big_endian"], [0.0, 1.0, 2.0])

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
    def test_torch_and_this_package_read_each_others_files(self, tmp_path, dtype):
        tensor = random_bits((2, 5), getattr(ml_dtypes, dtype, dtype))
        checkpoints.write(tmp_path / "here.safetensors", {"w": tensor})
        loaded = safetensors.torch.load_file(tmp_path / "here.safetensors")
        assert loaded["w"].dtype == getattr(torch, dtype)
        safetensors.torch.save_file(loaded, tmp_path / "there.safetensors")
        assert bits(checkpoints.read(tmp_path / "there.safetensors")) == bits({"w": tensor})

    def test_arrays_read_are_writable(self, tmp_path, tensors):
        checkpoints.write(tmp_path / "x.safetensors", tensors)
        checkpoints.read(tmp_path / "x.safetensors")["a"][...] = 0

    def test_metadata_is_kept(self, tmp_path, tensors):
        checkpoints.write(tmp_path / "x.safetensors", tensors, {"format": "pt"})
        with safetensors.safe_open(tmp_path / "x.safetensors", framework="np") as file:
            assert file.metadata() == {"format": "pt"}
        assert bits(checkpoints.read(tmp_path / "x.safetensors")) == bits(tensors)


class TestPlaces:
    def test_directory_with_a_single_file(self, tmp_path, tensors):
        checkpoints.write(tmp_path / checkpoints.SINGLE, tensors)
        assert bits(checkpoints.read(str(tmp_path))) == bits(tensors)

    def test_directory_with_shards(self, tmp_path):
        first, second = {"a": np.ones(2), "b": np.zeros(3)}, {"c": np.ones(5)}
        shard(tmp_path, one=first, two=second)
        assert bits(checkpoints.read(tmp_path)) == bits(first | second)
        assert bits(checkpoints.read(tmp_path / checkpoints.INDEX)) == bits(first | second)

    def test_missing_checkpoint_raises_with_the_files_present(self, tmp_path):
        (tmp_path / "pytorch_model.bin").touch()
        with pytest.raises(CheckpointError) as caught:
            checkpoints.read(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path} has neither model.safetensors nor model.safetensors.index.json; "
            "it holds pytorch_model.bin"
        )
        with pytest.raises(
            CheckpointError, match=r"x\.safetensors does not exist; .* holds pytorch_model\.bin"
        ):
            checkpoints.read(tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match="nowhere holds nothing"):
            checkpoints.read(tmp_path / "nowhere" / "x.safetensors")


class TestBadFiles:
    def spoil(self, tmp_path, content):
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            checkpoints.read(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert "\n" not in message
        return message.removeprefix(str(path))

    def test_empty_file(self, tmp_path):
        assert self.spoil(tmp_path, b"") == " is empty"

    @pytest.mark.parametrize("length", [1, 8, 40, -1])
    def test_truncated_file(self, tmp_path, tensors, length):
        assert "is truncated" in self.spoil(tmp_path, safetensors.numpy.save(tensors)[:length])

    def test_trailing_bytes(self, tmp_path, tensors):
        assert "no safetensors file" in self.spoil(tmp_path, safetensors.numpy.save(tensors) + b"!")

    def test_header_that_is_too_large(self, tmp_path):
        assert "its header ends at 1152921504606846984" in self.spoil(
            tmp_path, struct.pack("<Q", 2**60) + b"{}"
        )

    def test_header_that_is_not_json(self, tmp_path):
        assert "JSON" in self.spoil(tmp_path, struct.pack("<Q", 9) + b"not  json")
        assert "UTF-8" in self.spoil(tmp_path, struct.pack("<Q", 2) + b"\xff\xfe")

    def test_another_kind_of_file(self, tmp_path):
        assert "no safetensors file" in self.spoil(tmp_path, b"PK\x03\x04" + bytes(100))

    def test_dtype_that_numpy_lacks(self, tmp_path):
        header = json.dumps({"w": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
        message = self.spoil(tmp_path, struct.pack("<Q", len(header)) + header + bytes(2))
        assert message == " cannot be read: numpy has no F4, as w is"


class TestBadShards:
    def read(self, tmp_path):
        with pytest.raises(CheckpointError) as caught:
            checkpoints.read(tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_missing_shard_is_named(self, tmp_path):
        shard(tmp_path, one={"a": np.ones(2)}, two={"b": np.ones(2)})
        (tmp_path / "two.safetensors").unlink()
        message = self.read(tmp_path)
        assert "names shards that are missing: two.safetensors" in message
        assert message.endswith("holds model.safetensors.index.json, one.safetensors")

    def test_tensor_missing_in_its_shard_is_named(self, tmp_path):
        weight_map = shard(tmp_path, one={"a": np.ones(2)}) | {"b": "one.safetensors"}
        (tmp_path / checkpoints.INDEX).write_text(json.dumps({"weight_map": weight_map}))
        assert self.read(tmp_path).endswith("disagree about which tensors are in it: b")

    def test_tensor_missing_in_the_index_is_named(self, tmp_path):
        shard(tmp_path, one={"a": np.ones(2), "b": np.ones(2)})
        (tmp_path / checkpoints.INDEX).write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
        assert self.read(tmp_path).endswith("disagree about which tensors are in it: b")

    @pytest.mark.parametrize(
        "content", ["", "[]", "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}', "\x00"]
    )
    def test_invalid_index(self, tmp_path, content):
        (tmp_path / checkpoints.INDEX).write_text(content)
        assert "is not the index of a sharded checkpoint" in self.read(tmp_path)

    def test_empty_index(self, tmp_path):
        (tmp_path / checkpoints.INDEX).write_text('{"weight_map": {}}')
        assert self.read(tmp_path).endswith("names no tensors")

    def test_shard_outside_the_directory_raises(self, tmp_path):
        (tmp_path / checkpoints.INDEX).write_text('{"weight_map": {"a": "../other.safetensors"}}')
        assert "outside its directory: ../other.safetensors" in self.read(tmp_path)


class TestWriting:
    def test_failed_write_keeps_the_old_file_and_leaves_no_other(self, tmp_path, tensors, monkeypatch):
        path = tmp_path / "x.safetensors"
        checkpoints.write(path, tensors)
        before = path.read_bytes()

        def half_written(_tensors, temporary, _metadata):
            temporary.write_bytes(before[:10])
            raise OSError("no space left on device")

        monkeypatch.setattr(checkpoints, "save_file", half_written)
        with pytest.raises(OSError, match="no space left"):
            checkpoints.write(path, {"w": np.ones(3)})
        assert path.read_bytes() == before
        assert names(tmp_path) == ["x.safetensors"]

    def test_new_file_is_flushed_before_it_is_renamed(self, tmp_path, tensors, monkeypatch):
        path = tmp_path / "x.safetensors"
        seen = []
        fsync = os.fsync

        def record(descriptor):
            seen.append(path.exists())
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", record)
        checkpoints.write(path, tensors)
        assert seen[0] is False
        assert bits(checkpoints.read(path)) == bits(tensors)
        assert names(tmp_path) == ["x.safetensors"]

    def test_older_file_is_replaced(self, tmp_path, tensors):
        path = tmp_path / "x.safetensors"
        checkpoints.write(path, {"old": np.ones(3)})
        checkpoints.write(path, tensors)
        assert bits(checkpoints.read(path)) == bits(tensors)

    @pytest.mark.skipif(os.name == "nt", reason="file modes are POSIX")
    def test_file_has_the_default_mode(self, tmp_path, tensors):
        other = tmp_path / "other"
        other.touch()
        checkpoints.write(tmp_path / "x.safetensors", tensors)
        assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == stat.S_IMODE(other.stat().st_mode)

    def test_unsupported_values_raise_one_sentence(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"nowhere is not a directory$"):
            checkpoints.write(tmp_path / "nowhere" / "x.safetensors", {})
        with pytest.raises(CheckpointError, match=r"safetensors has no complex128, as w is$"):
            checkpoints.write(tmp_path / "x.safetensors", {"w": np.ones(2, np.complex128)})
        assert names(tmp_path) == []

    def test_metadata_must_be_text(self, tmp_path, tensors):
        with pytest.raises(TypeError):
            checkpoints.write(tmp_path / "x.safetensors", tensors, {"step": 1})
        assert names(tmp_path) == []
