"""Tricky files: all of their tensors or an error, and no code of the current directory."""

import json
import os
import signal
import struct
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from flax import serialization

from attention_bridge import checkpoints
from attention_bridge.checkpoints import hdf5_walk, isolated
from attention_bridge.checkpoints.faults import writing
from attention_bridge.checkpoints.zips import open_zip
from attention_bridge.errors import CheckpointError, DiskError
from attention_bridge.pretrained.config_files import read_json


def npz(path):
    np.savez(path, a=np.ones(3, "f4"), b=np.ones(4, "f4"), c=np.ones(5, "f4"))
    raw = bytearray(path.read_bytes())
    listed = [i for i in range(len(raw)) if raw[i : i + 4] == b"PK\1\2"]
    return raw, listed, raw.rindex(b"PK\5\6")


class TestPoisonedDirectory:
    @pytest.mark.parametrize("name", ["h5py", "numpy", "json", "encodings", "sitecustomize", "subprocess"])
    def test_child_runs_no_code_of_the_directory(self, tmp_path, monkeypatch, name):
        path = tmp_path / "x.weights.h5"
        with h5py.File(path, "w") as file:
            file["w"] = np.ones(3)
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with checkpoints.open("x.weights.h5") as reader:
            assert list(reader.specs) == ["w"]
        assert not (tmp_path / "ran").exists()

    def test_failed_child_raises(self, tmp_path, monkeypatch):
        path = tmp_path / "x.weights.h5"
        with h5py.File(path, "w") as file:
            file["w"] = np.ones(3)
        script = tmp_path / "failing.py"
        script.write_text("raise SystemExit(7)")
        monkeypatch.setattr(hdf5_walk, "__file__", str(script))
        with pytest.raises(CheckpointError, match="exit status 7"):
            checkpoints.open(path)

    def test_child_directory_is_empty(self, tmp_path):
        script = tmp_path / "listing.py"
        script.write_text("import os, sys; print(os.listdir(), sys.flags.isolated)")
        assert isolated.run(script, modules=[], timeout=30).stdout.split() == [b"[]", b"1"]


class TestZip:
    def test_entry_swallowed_by_a_comment(self, tmp_path):
        raw, listed, end = npz(tmp_path / "x.npz")
        raw[listed[0] + 32 : listed[0] + 34] = struct.pack("<H", end - listed[1])
        (tmp_path / "x.npz").write_bytes(raw)
        with pytest.raises(CheckpointError, match="counts 3 entries, but 1 are listed"):
            checkpoints.open(tmp_path / "x.npz")

    @pytest.mark.parametrize("removed", [0, 1, 2])
    def test_unlisted_entry(self, tmp_path, removed):
        raw, listed, end = npz(tmp_path / "x.npz")
        bounds = [*listed, end]
        cut = bounds[removed + 1] - bounds[removed]
        raw[end + 8 : end + 16] = struct.pack("<2HL", 2, 2, end - listed[0] - cut)
        del raw[bounds[removed] : bounds[removed + 1]]
        (tmp_path / "x.npz").write_bytes(raw)
        with pytest.raises(CheckpointError, match="the directory of the zip file disagrees"):
            checkpoints.open(tmp_path / "x.npz")

    @pytest.mark.parametrize(
        ("at", "value", "message"),
        [(8, b"\x00\x20", "encrypted or patched"), (8, b"\x01\x00", "encrypted or patched"),
         (34, b"\x01\x00", "in another file"), (38, b"\x10", "a directory"),
         (24, b"\xff\x7f\x00\x00", "says that they are 32767")],
    )  # fmt: skip
    def test_entry_with_unusual_fields(self, tmp_path, at, value, message):
        """Flags, disk number and length, which zipfile ignores."""
        raw, listed, _ = npz(tmp_path / "x.npz")
        raw[listed[1] + at : listed[1] + at + len(value)] = value
        (tmp_path / "x.npz").write_bytes(raw)
        with pytest.raises(CheckpointError, match=message):
            checkpoints.open(tmp_path / "x.npz")

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_usual_files_are_read(self, tmp_path, compression):
        with zipfile.ZipFile(tmp_path / "x.zip", "w", compression) as archive:
            archive.writestr("a", b"1" * 100)
            archive.comment = b"a comment"
            with archive.open("b", "w", force_zip64=True) as entry:
                entry.write(b"2" * 100)
        with open_zip(tmp_path / "x.zip") as archive:
            assert archive.namelist() == ["a", "b"]


class TestHdf5Links:
    @pytest.mark.parametrize("link", [h5py.SoftLink("/w"), h5py.ExternalLink("other.h5", "/w")])
    def test_link_by_path_raises(self, tmp_path, link):
        with h5py.File(tmp_path / "x.weights.h5", "w") as file:
            file["w"] = np.ones(3)
            file["below/link"] = link
        with pytest.raises(CheckpointError, match="below/link is a soft or external link"):
            checkpoints.open(tmp_path / "x.weights.h5")

    def test_named_type_in_place_of_an_array_raises(self, tmp_path):
        with h5py.File(tmp_path / "x.weights.h5", "w") as file:
            file["layers/w"] = np.ones(3)
            file["layers/kind"] = np.dtype("float32")
        with pytest.raises(CheckpointError, match="layers/kind is neither a group nor an array"):
            checkpoints.open(tmp_path / "x.weights.h5")

    def test_dataset_with_two_names_is_read_twice(self, tmp_path):
        with h5py.File(tmp_path / "x.weights.h5", "w") as file:
            file["w"] = np.ones(3)
            file["tied"] = file["w"]
        with checkpoints.open(tmp_path / "x.weights.h5") as reader:
            assert reader.specs.keys() == {"w", "tied"}

    def test_group_in_itself_raises(self, tmp_path):
        with h5py.File(tmp_path / "x.weights.h5", "w") as file:
            file["group/w"] = np.ones(3)
            file["group/again"] = file["group"]
        with pytest.raises(CheckpointError, match="nests more than"):
            checkpoints.open(tmp_path / "x.weights.h5")


class TestKeysThatComeTwice:
    def test_msgpack(self, tmp_path):
        one = serialization.msgpack_serialize({"w": np.ones(3)})
        (tmp_path / "x.msgpack").write_bytes(b"\x82" + 2 * one[1:])
        with pytest.raises(CheckpointError, match="gives the key 'w' twice"):
            checkpoints.open(tmp_path / "x.msgpack")

    def test_config(self, tmp_path):
        (tmp_path / "config.json").write_text('{"rope": {"theta": 1, "theta": 2}}')
        with pytest.raises(CheckpointError, match="gives the key 'theta' twice"):
            read_json(tmp_path / "config.json")


def test_orbax_tensor_marked_as_skipped_raises(tmp_path):
    tensors = {"a": np.ones(3), "b": np.ones(4)}
    specs = {name: checkpoints.Spec(array.shape, array.dtype) for name, array in tensors.items()}
    checkpoints.save(tmp_path / "x", tensors.items(), specs, format="orbax")
    described = json.loads((tmp_path / "x" / "_METADATA").read_text())
    next(iter(described["tree_metadata"].values()))["value_metadata"]["skip_deserialize"] = True
    (tmp_path / "x" / "_METADATA").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="as not to be read"):
        checkpoints.open(tmp_path / "x")


def test_orbax_tensor_that_is_stored_but_not_listed_raises(tmp_path):
    tensors = {"a": np.ones(3), "b": np.ones(4)}
    specs = {name: checkpoints.Spec(array.shape, array.dtype) for name, array in tensors.items()}
    checkpoints.save(tmp_path / "x", tensors.items(), specs, format="orbax")
    described = json.loads((tmp_path / "x" / "_METADATA").read_text())
    del described["tree_metadata"]["('b',)"]
    (tmp_path / "x" / "_METADATA").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="it holds b, which _METADATA does not list"):
        checkpoints.open(tmp_path / "x")


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "x.weights.h5", "x.pt"])
def test_file_that_shrinks_during_reading(tmp_path, name):
    tensors = {"a": np.ones(2**16), "b": np.ones(2**16)}
    specs = {key: checkpoints.Spec(array.shape, array.dtype) for key, array in tensors.items()}
    checkpoints.save(tmp_path / name, tensors.items(), specs)
    with checkpoints.open(tmp_path / name) as reader:
        os.truncate(tmp_path / name, 2**12)
        with pytest.raises(CheckpointError):
            reader.read("b")


def test_shard_name_of_300_characters(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "x" * 300}}))
    with pytest.raises(CheckpointError, match="names a shard of more than 255 bytes"):
        checkpoints.open(tmp_path)


@pytest.mark.parametrize("shards", [None, 10**6])
def test_one_file_replaces_index_and_shards(tmp_path, shards):
    tensors = {"a": np.ones(30), "b": np.ones(40)}
    specs = {name: checkpoints.Spec(array.shape, array.dtype) for name, array in tensors.items()}
    path = tmp_path / "model.safetensors"
    checkpoints.save(path, tensors.items(), specs, max_shard_bytes=100)
    checkpoints.save(path, tensors.items(), specs, max_shard_bytes=shards)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_fewer_shards_replace_more(tmp_path):
    tensors = {name: np.full(30, at) for at, name in enumerate("abcdef")}
    specs = {name: checkpoints.Spec(array.shape, array.dtype) for name, array in tensors.items()}
    path = tmp_path / "model.safetensors"
    for size, count in ((240, 6), (480, 3), (720, 2), (240, 6)):
        checkpoints.save(path, tensors.items(), specs, max_shard_bytes=size)
        assert len(list(tmp_path.iterdir())) == count + 1
        assert {name: int(array[0]) for name, array in checkpoints.read(tmp_path).items()} == {
            name: at for at, name in enumerate("abcdef")
        }


@pytest.mark.parametrize("shards", [None, 100])
def test_files_in_an_older_index_that_are_no_shards_stay(tmp_path, shards):
    kept = ["config.json", "notes", "other-00001-of-00002.safetensors"]
    for name in kept:
        (tmp_path / name).write_text("mine")
    index = {"weight_map": {str(at): name for at, name in enumerate(kept)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    tensors = {"a": np.ones(30), "b": np.ones(40)}
    specs = {name: checkpoints.Spec(array.shape, array.dtype) for name, array in tensors.items()}
    checkpoints.save(tmp_path / "model.safetensors", tensors.items(), specs, max_shard_bytes=shards)
    assert all((tmp_path / name).read_text() == "mine" for name in kept)


class TestInterrupt:
    @staticmethod
    def interrupt():
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("unexpected position")  # as in torch.save

    def test_interrupt_is_no_disk_error(self, tmp_path):
        with pytest.raises(KeyboardInterrupt), writing(tmp_path, RuntimeError):
            self.interrupt()

    def test_interrupt_handled_outside_is_not_raised_again(self, tmp_path):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            with pytest.raises(DiskError), writing(tmp_path, RuntimeError):
                raise RuntimeError("no space") from None


def test_sigterm_removes_the_temporary_and_ends_the_process(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from attention_bridge.checkpoints.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as file: file.write_bytes(b'x'); os.kill(os.getpid(), signal.SIGTERM)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], timeout=60)
    assert done.returncode == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
