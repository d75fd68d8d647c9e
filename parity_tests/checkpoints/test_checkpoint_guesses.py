"""Files that a library would read by guessing: missing values, duplicate fields, unlisted tensors."""

import io
import json
import os
import shutil
import struct
import zipfile

import h5py
import msgpack
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from typer.testing import CliRunner

from attention_bridge import checkpoints
from attention_bridge.cli import app
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained.conversion import read_axes
from attention_bridge.pretrained.keras import layers as keras_layers

RUNNER = CliRunner()
os.environ.setdefault("KERAS_BACKEND", "torch")
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)%s}"


def refusal(path):
    with pytest.raises(CheckpointError) as refused:
        checkpoints.open(path)
    return str(refused.value)


def npy(header, length=None):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) if length is None else length) + text + bytes(8)


class TestNpyHeader:
    @pytest.mark.parametrize("more", [", 'descr': '<i4'", ", 'shape': (2,)", ", 'fortran_order': False"])
    def test_duplicate_field_raises(self, tmp_path, more):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("a.npy", npy(HEADER % more))
        assert "gives a field twice" in refusal(tmp_path / "x.npz")

    def test_longest_header_raises(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("a.npy", npy(HEADER % "", 0xFFFF) + bytes(2**16))
        assert "the header of a has 65535 bytes" in refusal(tmp_path / "x.npz")

    def test_usual_header_is_read(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("a.npy", npy(HEADER % ""))
        with checkpoints.open(tmp_path / "x.npz") as reader:
            assert reader.read("a").tolist() == [0, 0]


class TestMsgpack:
    @pytest.mark.parametrize("shape", [(-1,), (2, -1), (2.0,), (True,), ("2",)])
    def test_invalid_shape_raises(self, tmp_path, shape):
        array = msgpack.ExtType(1, msgpack.packb((shape, "float32", bytes(8))))
        (tmp_path / "x.msgpack").write_bytes(msgpack.packb({"a": array}))
        assert "array of the shape" in refusal(tmp_path / "x.msgpack")

    def test_key_that_is_no_text_raises(self, tmp_path):
        array = msgpack.ExtType(1, msgpack.packb(((2,), "float32", bytes(8))))
        (tmp_path / "x.msgpack").write_bytes(msgpack.packb({b"a": array}))
        assert "the key b'a' is neither text nor a number" in refusal(tmp_path / "x.msgpack")


@pytest.mark.parametrize("old", [False, True])
class TestTorch:
    def test_tensor_without_values_raises(self, tmp_path, old):
        held = {"a": torch.ones(2), "b": torch.ones(2, device="meta")}
        torch.save(held, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
        assert "b is on the meta device" in refusal(tmp_path / "x.pt")

    @pytest.mark.parametrize("key", [None, 1.5, ("a", "b")])
    def test_key_that_is_no_name_raises(self, tmp_path, old, key):
        torch.save({key: torch.ones(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
        assert "is neither text nor a number" in refusal(tmp_path / "x.pt")


class TestHdf5:
    @pytest.mark.parametrize("chunks", [None, (2, 4)])
    def test_values_that_were_never_written_raise(self, tmp_path, chunks):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.create_dataset("a", (4, 4), "f4", chunks=chunks)
        assert "values of a were never written" in refusal(tmp_path / "x.h5")

    def test_partly_written_chunks_raise(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.create_dataset("a", (5, 4), "f4", chunks=(2, 4))[:2] = 1
        assert "values of a were never written" in refusal(tmp_path / "x.h5")

    def test_usual_datasets_are_read(self, tmp_path):
        given = {"a": np.ones((5, 4)), "b": np.float32(2), "c": np.zeros((0, 3)), "d": np.ones(7)}
        with h5py.File(tmp_path / "x.h5", "w") as file:
            for name, value in given.items():
                more = {"chunks": (2, 4), "compression": "gzip"} if name == "a" else {}
                file.create_dataset(name, data=value, **more)
        with checkpoints.open(tmp_path / "x.h5") as reader:
            assert all(np.array_equal(reader.read(name), value) for name, value in given.items())


def gguf(names, starts, bytes_behind):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(names), 0)
    for name, start in zip(names, starts, strict=True):
        head += struct.pack("<Q", 1) + name + struct.pack("<IQIQ", 1, 2, 0, start)
    return head + bytes(-len(head) % 32) + bytes(bytes_behind)


@pytest.mark.parametrize(
    ("names", "starts", "behind", "good"),
    [
        ([b"a", b"b"], [0, 32], 64, True),
        ([b"a", b"b"], [0, 32], 40, True),
        ([b"a"], [0], 64, False),
        ([b"a", b"b"], [0, 64], 96, False),
        ([b"a", b"b"], [32, 64], 96, False),
        ([], [], 32, False),
    ],
)
def test_gguf_tensors_must_be_contiguous(tmp_path, names, starts, behind, good):
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(names, starts, behind))
    if good:
        assert len(checkpoints.open(path).specs) == len(names)
    else:
        assert "is damaged" in refusal(path)


@pytest.fixture(scope="module")
def zarr(tmp_path_factory):
    """An Orbax directory that stores one array in its own file."""
    path = tmp_path_factory.mktemp("zarr") / "x"
    saver = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False))
    saver.save(path, args=ocp.args.PyTreeSave({"a": np.ones((3, 4), np.float32)}))
    return path


class TestOrbax:
    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"shape": [2**40, 4]}, "which is more than 100 times as many"),
            ({"shape": [2**40, 4], "chunks": [2**40, 4]}, "which is more than 100 times as many"),
            ({"shape": [2, 4]}, "chunks of (3, 4)"),
        ],
    )
    def test_wrong_sizes_raise(self, zarr, tmp_path, fields, said):
        shutil.copytree(zarr, tmp_path / "x")
        described = tmp_path / "x" / "a" / ".zarray"
        described.write_text(json.dumps(json.loads(described.read_text()) | fields))
        assert said in refusal(tmp_path / "x")

    def test_stored_tensor_declared_as_none_raises(self, zarr, tmp_path):
        shutil.copytree(zarr, tmp_path / "x")
        described = tmp_path / "x" / "_METADATA"
        known = json.loads(described.read_text())
        [entry] = known["tree_metadata"].values()
        entry["value_metadata"] |= {"skip_deserialize": True, "value_type": "None"}
        known["tree_metadata"]["('b',)"] = {
            "key_metadata": [{"key": "b", "key_type": 2}],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
        shutil.copytree(tmp_path / "x" / "a", tmp_path / "x" / "b")
        described.write_text(json.dumps(known))
        assert "it holds a, which _METADATA does not list" in refusal(tmp_path / "x")


class TestAxes:
    @pytest.mark.parametrize("text", ["d=²", "d=٤", f"d={'9' * 5000}", "d=0", "d=04", "d=+4"])
    def test_text_that_is_no_size_raises(self, text):
        with pytest.raises(InputError, match="--axis must be a name and a size"):
            read_axes([text])

    def test_duplicate_axis_raises(self):
        with pytest.raises(InputError, match="d twice"):
            read_axes(["d=4", "d=5"])

    def test_duplicate_stored_axis_raises(self, tmp_path):
        with pytest.raises(CheckpointError, match="must be sizes by name"):
            keras_layers.read_axes(tmp_path, {keras_layers.AXES: '{"d": 4, "d": 5}'})


def test_null_metadata_is_ignored(tmp_path):
    header = json.dumps(
        {"__metadata__": None, "q_proj.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}
    ).encode()
    source = tmp_path / "x.safetensors"
    source.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    done = RUNNER.invoke(app, ["convert", str(source), str(tmp_path / "x.npz"), "--from", "torch_attention"])
    assert done.exit_code == 0


@pytest.mark.parametrize("name", ["a" * 300, "a" * 5000])
def test_target_name_that_is_too_long_is_one_line(tmp_path, name):
    np.savez(tmp_path / "x.npz", **{"q_proj.weight": np.ones((2, 2))})
    command = ["convert", str(tmp_path / "x.npz"), str(tmp_path / f"{name}.npz"), "--from", "torch_attention"]
    done = RUNNER.invoke(app, command)
    assert (done.exit_code, len(done.output.splitlines())) == (2, 1)
    assert len(done.output) <= 301


def test_description_without_attention_layers_is_ignored(tmp_path):
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        for part, shape in (
            ("query", (4, 2, 2)),
            ("key", (4, 2, 2)),
            ("value", (4, 2, 2)),
            ("output", (2, 2, 4)),
        ):
            file[f"layers/multi_head_attention/{part}_dense/vars/0"] = np.ones(shape, np.float32)
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Mine", "module": "own", "config": {}}))
        archive.writestr("model.weights.h5", held.getvalue())
    command = ["convert", str(tmp_path / "x.keras"), str(tmp_path / "x.npz"), "--from", "keras.mha"]
    described = RUNNER.invoke(app, command)
    assert "were not checked" in described.output


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("causal", [True, False])
def test_causal_call_of_keras_is_reported(tmp_path, causal):
    keras = pytest.importorskip("keras")
    inputs = keras.Input((5, 6))
    layer = keras.layers.MultiHeadAttention(2, 3, name="attended")
    keras.Model(inputs, layer(inputs, inputs, use_causal_mask=causal)).save(tmp_path / "x.keras")
    command = ["convert", str(tmp_path / "x.keras"), str(tmp_path / "x.npz"), "--from", "keras.mha"]
    done = RUNNER.invoke(app, command)
    assert done.exit_code == 0
    assert ("calls attended with use_causal_mask=True" in done.output) == causal
