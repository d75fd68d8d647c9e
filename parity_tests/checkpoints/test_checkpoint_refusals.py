"""Bad checkpoints of every kind: one sentence that names the file and says which content was expected and found."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import serialization

from attention_bridge import checkpoints
from attention_bridge.checkpoints import faults
from attention_bridge.errors import CheckpointError, DiskError, InputError
from parity_tests.helpers.checkpoint_samples import WRITTEN, bits, few, gguf_bytes, load, random_bits, save

# Orbax's own threads, when they fail, call a closed event loop, perhaps during a later test.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning"
)

FILES = {format: name for format, name in WRITTEN.items() if format != "orbax"}


def refusal(path):
    """The message raised when a checkpoint is read completely: one sentence that begins with the path."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path)).strip()


def valid(path, format):
    if format == "gguf":
        gguf_bytes(path, {"w": random_bits((3, 5), np.float32)})
    else:
        save(path, few(), format=format)
    return path.read_bytes()


@pytest.fixture(params=FILES | {"gguf": "x.gguf"})
def each(request, tmp_path):
    """The path and the bytes of a valid file of each format."""
    path = tmp_path / (FILES | {"gguf": "x.gguf"})[request.param]
    return path, valid(path, request.param)


class TestAnyFormat:
    def test_missing_file(self, each):
        path, _ = each
        path.rename(path.with_name("other"))
        assert refusal(path) == f"does not exist; {path.parent} holds other"

    def test_empty_file(self, each):
        each[0].write_bytes(b"")
        assert refusal(each[0]) == "is empty"

    def test_file_truncated_anywhere(self, each):
        path, content = each
        for length in {1, 7, 8, 9, len(content) // 3, len(content) // 2, len(content) - 40}:
            path.write_bytes(content[:length])
            assert refusal(path)

    def test_file_of_zeros_or_noise(self, each):
        for content in (bytes(1000), np.random.default_rng(0).bytes(1000)):
            each[0].write_bytes(content)
            assert refusal(each[0])

    def test_directory_in_place_of_a_file(self, each):
        each[0].unlink()
        each[0].mkdir()
        assert refusal(each[0]).startswith("has none of model.safetensors, ")

    def test_path_that_is_neither_file_nor_directory(self, tmp_path):
        os.mkfifo(tmp_path / "x.npz")
        assert refusal(tmp_path / "x.npz") == "is neither a file nor a directory"

    def test_file_without_read_permission(self, tmp_path):
        (tmp_path / "x.npz").symlink_to(tmp_path / "x.npz")
        assert refusal(tmp_path / "x.npz")

    def test_empty_directory_and_directory_without_checkpoints(self, tmp_path):
        assert refusal(tmp_path).endswith("it holds nothing")
        (tmp_path / "readme").touch()
        assert refusal(tmp_path).endswith("it holds readme")

    def test_unknown_name_and_content(self, tmp_path):
        (tmp_path / "x.txt").write_text("text")
        assert refusal(tmp_path / "x.txt").startswith(
            "is no checkpoint of a known format: its name has none of "
        )

    @pytest.mark.parametrize(
        ("format", "extra"), [("torch", "torch"), ("msgpack", "jax"), ("keras", "files")]
    )
    def test_missing_package_is_named_with_its_installation(self, tmp_path, monkeypatch, format, extra):
        path = tmp_path / FILES[format]
        valid(path, format)
        monkeypatch.setattr("attention_bridge.errors.find_spec", lambda name: None)
        with pytest.raises(
            InputError, match=rf"python -m pip install \w+ \(or with attention-bridge's extra \[{extra}\]\)"
        ):
            checkpoints.open(path)


class TestSafetensors:
    def spoil(self, tmp_path, header, data=0, length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        length = len(text) if length is None else length
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + text + bytes(data))
        return refusal(tmp_path / "x.safetensors")

    def entry(self, start, end, **changed):
        return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]} | changed

    def test_overlaps_and_holes(self, tmp_path):
        a = self.entry(0, 4)
        assert "invalid offset for tensor `b`" in self.spoil(tmp_path, {"a": a, "b": self.entry(3, 6)}, 6)
        assert "invalid offset for tensor `b`" in self.spoil(tmp_path, {"a": a, "b": self.entry(5, 6)}, 6)
        assert "not fully covered" in self.spoil(tmp_path, {"a": a}, 6)

    def test_shape_that_does_not_fit_its_bytes(self, tmp_path):
        assert "a" in self.spoil(tmp_path, {"a": self.entry(0, 4, shape=[5])}, 4)

    def test_shape_that_no_array_has(self, tmp_path):
        shape = [0, 2**62, 2**62]
        assert "no array can hold" in self.spoil(tmp_path, {"a": self.entry(0, 0, shape=shape)})
        assert "no array can hold" in self.spoil(tmp_path, {"a": self.entry(0, 1, shape=[1] * 65)}, 1)

    @pytest.mark.parametrize("length", [2**63, 2**32, 1000])
    def test_header_longer_than_the_file(self, tmp_path, length):
        assert self.spoil(tmp_path, b"{}", 0, length).endswith(
            f"it has 10 bytes, its header ends at {8 + length}"
        )

    def test_header_longer_than_any(self, tmp_path):
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", 10**8 + 1) + b"{")
        os.truncate(path, 2 * 10**8)
        assert refusal(path).endswith("its header has 100000001 bytes, more than 100000000")

    def test_duplicate_name(self, tmp_path):
        entry = json.dumps(self.entry(0, 2))
        assert self.spoil(tmp_path, f'{{"a":{entry},"a":{entry}}}'.encode(), 2).endswith(
            "gives one name twice"
        )

    def test_dtype_that_numpy_lacks(self, tmp_path):
        entry = {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}
        assert self.spoil(tmp_path, {"w": entry}, 2) == "cannot be read: numpy has no F4, as w is"


class TestIndex:
    def shards(self, directory, weight_map=None, **shards):
        for stem, tensors in shards.items():
            safetensors.numpy.save_file(tensors, directory / f"{stem}.safetensors")
        given = {name: f"{stem}.safetensors" for stem, tensors in shards.items() for name in tensors}
        index = directory / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map or given}))
        return refusal(index)

    def test_tensor_in_two_shards(self, tmp_path):
        one, two = {"a": np.ones(2)}, {"a": np.ones(2), "b": np.ones(3)}
        assert self.shards(
            tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}, one=one, two=two
        ).endswith("and two.safetensors disagree about which tensors are in it: a")

    def test_duplicate_name_in_the_index(self, tmp_path):
        (tmp_path / "x.bin.index.json").write_text('{"weight_map": {"a": "one.bin", "a": "two.bin"}}')
        assert refusal(tmp_path / "x.bin.index.json").endswith("it gives a twice")

    def test_missing_shard(self, tmp_path):
        message = self.shards(
            tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}, one={"a": np.ones(2)}
        )
        assert message.startswith("names shards that are missing: two.safetensors; ")

    def test_shard_with_a_missing_tensor(self, tmp_path):
        message = self.shards(tmp_path, dict.fromkeys("ab", "one.safetensors"), one={"a": np.ones(2)})
        assert message.endswith("and one.safetensors disagree about which tensors are in it: b")

    @pytest.mark.parametrize(
        "shard", ["../x.safetensors", "/etc/passwd", "a/b", "..", ".", "", "..\\x", "x\0", "a/"]
    )
    def test_shard_in_another_directory(self, tmp_path, shard):
        assert self.shards(tmp_path, {"a": shard}) == (
            f"names a shard outside its directory: {shard}".strip().replace("\0", "\\x00")
        )

    def test_damaged_shard_is_named(self, tmp_path):
        save(tmp_path / "model.safetensors", few(), max_shard_bytes=50)
        [shard] = tmp_path.glob("model-00001-of-*.safetensors")
        shard.write_bytes(shard.read_bytes()[:-1])
        with pytest.raises(CheckpointError) as caught:
            checkpoints.open(tmp_path)
        assert str(caught.value).startswith(f"{shard} is truncated")

    def test_endlessly_nested_index(self, tmp_path):
        (tmp_path / "x.bin.index.json").write_text('{"weight_map":' * 10**5)
        assert refusal(tmp_path / "x.bin.index.json") == "is not the index of a sharded checkpoint"

    def test_index_that_is_far_too_large(self, tmp_path):
        (tmp_path / "x.bin.index.json").write_bytes(b"{")
        os.truncate(tmp_path / "x.bin.index.json", 2**30)
        assert refusal(tmp_path / "x.bin.index.json").endswith("it has more than 268435456 bytes")

    def test_names_that_cannot_be_printed_are_escaped(self, tmp_path):
        message = self.shards(tmp_path, {"a": "two\nlines \ud800.safetensors"})
        assert message.startswith("names shards that are missing: two\\nlines \\ud800.safetensors; ")

    def test_metadata_of_a_wrong_type(self, tmp_path):
        (tmp_path / "x.bin.index.json").write_text('{"weight_map": {"a": "b.bin"}, "metadata": 3}')
        assert refusal(tmp_path / "x.bin.index.json") == "is not the index of a sharded checkpoint"


class Code:
    """An object whose unpickling runs code."""

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class TestTorch:
    @pytest.mark.parametrize("write", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
    def test_pickled_code_is_not_run(self, tmp_path, write):
        code = Code()
        code.path = tmp_path / "ran"
        write({"w": torch.ones(2) if write is torch.save else 1, "code": code}, tmp_path / "x.pt")
        message = refusal(tmp_path / "x.pt")
        if write is torch.save:
            assert "reading it would run the code posix.system" in message
        assert not (tmp_path / "ran").exists()
        torch.load(tmp_path / "x.pt", weights_only=False) if write is torch.save else pickle.loads(
            (tmp_path / "x.pt").read_bytes()
        )
        assert (tmp_path / "ran").exists()  # torch.load runs it

    def test_pickled_module_raises_with_its_class(self, tmp_path):
        torch.save(torch.nn.Linear(2, 3), tmp_path / "x.pt")
        assert "reading it would run the code torch.nn.modules.linear.Linear" in refusal(tmp_path / "x.pt")

    def test_duplicate_name(self, tmp_path):
        torch.save({"a": {"b": torch.ones(2)}, "a.b": torch.ones(3)}, tmp_path / "x.pt")
        assert refusal(tmp_path / "x.pt") == "holds two tensors that are both called a.b"

    def test_no_tensors(self, tmp_path):
        torch.save({"a": 3}, tmp_path / "x.pt")
        assert refusal(tmp_path / "x.pt") == "holds no tensors"

    def test_endlessly_nested_trees(self, tmp_path, monkeypatch):
        monkeypatch.setattr("attention_bridge.checkpoints.nested_trees.MOST_ENTRIES", 1000)
        loop = [torch.ones(2)]
        loop.append(loop)
        torch.save(loop, tmp_path / "x.pt")
        assert refusal(tmp_path / "x.pt") == "is refused: it nests more than 100 levels"
        doubled = [torch.ones(2)]
        for _ in range(60):
            doubled = [doubled, doubled]
        torch.save(doubled, tmp_path / "x.pt")
        assert refusal(tmp_path / "x.pt") == "is refused: it nests more than 1000 entries"

    def test_tensor_that_repeats_few_bytes_very_often(self, tmp_path):
        torch.save({"w": torch.ones(1).expand(2**40)}, tmp_path / "x.pt")
        assert f"declares {2**42}, which is more than 100 times as many" in refusal(tmp_path / "x.pt")

    def test_zip_bomb(self, tmp_path):
        torch.save({"w": torch.ones(3)}, tmp_path / "x.pt")
        claim(tmp_path / "x.pt", "more/data/1", 2**31, "a")
        assert "which is more than 100 times as many" in refusal(tmp_path / "x.pt")

    def test_entry_shorter_than_declared(self, tmp_path):
        torch.save({"w": torch.ones(3)}, tmp_path / "y.pt")
        with (
            zipfile.ZipFile(tmp_path / "y.pt") as given,
            zipfile.ZipFile(tmp_path / "x.pt", "w") as forged,
        ):
            for name in given.namelist():
                forged.writestr(name, given.read(name))
                forged.infolist()[-1].file_size += 5 if name.endswith("data/0") else 0
        assert refusal(tmp_path / "x.pt").endswith("data/0 has 12 bytes and says that they are 17")

    def test_compressed_entries(self, tmp_path):
        torch.save({"w": torch.ones(3)}, tmp_path / "y.pt")
        with (
            zipfile.ZipFile(tmp_path / "y.pt") as given,
            zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as packed,
        ):
            for name in given.namelist():
                packed.writestr(name, given.read(name))
        assert refusal(tmp_path / "x.pt").endswith("is compressed, which torch does not do")

    @pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
    def test_tensors_that_numpy_lacks(self, tmp_path):
        for tensor in (torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex32)):
            torch.save({"odd": tensor}, tmp_path / "x.pt")
            assert refusal(tmp_path / "x.pt").startswith("cannot be read: odd ")

    def test_tensor_without_values(self, tmp_path):
        torch.save({"w": torch.ones(2, device="meta")}, tmp_path / "x.pt")
        assert refusal(tmp_path / "x.pt") == "cannot be read: w is on the meta device, which holds no values"


def claim(path, name, size, mode="w"):
    """Add an entry of 1000 zeros with a declared length of `size` bytes."""
    with zipfile.ZipFile(path, mode, zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(1000))
        archive.infolist()[-1].file_size = size  # the directory at the end of the file is written later


class TestNpz:
    def spoil(self, tmp_path, entries):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            for name, content in entries:
                archive.writestr(name, content)
        return refusal(tmp_path / "x.npz")

    def npy(self, header, data=b""):
        text = header.encode().ljust(118) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data

    def test_zip_bomb(self, tmp_path):
        claim(tmp_path / "x.npz", "w.npy", 2**31)
        assert "which is more than 100 times as many" in refusal(tmp_path / "x.npz")

    def test_entry_that_unpacks_to_more_than_declared(self, tmp_path):
        np.savez_compressed(tmp_path / "x.npz", w=np.zeros(1000))
        content = (tmp_path / "x.npz").read_bytes()
        true, false = struct.pack("<I", 8128), struct.pack("<I", 128 + 8 * 3)
        assert true in content
        (tmp_path / "x.npz").write_bytes(content.replace(true, false).replace(b"(1000,)", b"(0003,)"))
        assert refusal(tmp_path / "x.npz")

    def test_array_larger_than_its_entry(self, tmp_path):
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}"
        assert "is damaged: w is (1099511627776,) float32" in self.spoil(
            tmp_path, [("w.npy", self.npy(header, bytes(8)))]
        )

    @pytest.mark.parametrize(
        "shape", ["(-1,)", "(2**3,)", "('a',)", "None", "(1,)*99", "((((", "[3]", "(True, 'x')"]
    )
    def test_invalid_shape(self, tmp_path, shape):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
        assert self.spoil(tmp_path, [("w.npy", self.npy(header, bytes(8)))])

    @pytest.mark.parametrize(
        "array", [np.array(["text"]), np.array([b"raw"]), np.zeros(2, "f4,i4"), np.zeros(2, "M8[s]")]
    )
    def test_dtypes_that_tensors_do_not_have(self, tmp_path, array):
        np.savez(tmp_path / "x.npz", w=array)
        assert refusal(tmp_path / "x.npz")

    def test_pickled_objects(self, tmp_path):
        np.savez(tmp_path / "x.npz", w=np.array([{}], dtype=object))
        assert refusal(tmp_path / "x.npz") == "cannot be read: w is object, which is not a dtype of tensors"

    def test_raw_bytes_of_unknown_dtype(self, tmp_path):
        np.savez(tmp_path / "x.npz", w=np.zeros(3, "V2"))
        assert refusal(tmp_path / "x.npz").endswith("nothing says which dtype the raw bytes of w are")

    @pytest.mark.parametrize(
        "note", ['{"w": "float8_e5m2"}', '{"w": "f4"}', '{"w": 3}', '{"w": "bfloat16"}', "[]", "{"]
    )
    def test_wrong_record_of_dtypes(self, tmp_path, note):
        np.savez(tmp_path / "x.npz", w=np.zeros(3, "V3"), __dtypes__=np.array(note))
        assert refusal(tmp_path / "x.npz")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_duplicate_name(self, tmp_path):
        entry = self.npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", bytes(8))
        assert self.spoil(tmp_path, [("w.npy", entry)] * 2) == "holds two entries that are both called w.npy"

    def test_other_entries(self, tmp_path):
        assert "it is a zip file of other things" in self.spoil(tmp_path, [("w.npy", b""), ("x", b"")])


class TestOthers:
    def test_msgpack_without_tensors_and_with_text(self, tmp_path):
        for tree, said in ({"a": 3}, "holds no tensors"), ("text", "holds no tensors"):
            (tmp_path / "x.msgpack").write_bytes(serialization.msgpack_serialize(tree))
            assert refusal(tmp_path / "x.msgpack") == said

    def test_endlessly_nested_msgpack(self, tmp_path):
        (tmp_path / "x.msgpack").write_bytes(b"\x81\xa1a" * 10**5)
        assert refusal(tmp_path / "x.msgpack")

    def test_hdf5_that_declares_far_more_than_it_has(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.create_dataset("w", (2**40,), "f4", chunks=(2**20,))
        assert "which is more than 100 times as many" in refusal(tmp_path / "x.h5")

    def test_hdf5_with_text_or_nothing(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.create_group("empty")
        assert refusal(tmp_path / "x.h5") == "holds no tensors"
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["text"] = "text"
        assert refusal(tmp_path / "x.h5") == "cannot be read: text is object, which is not a dtype of tensors"

    def test_gguf_with_endless_metadata(self, tmp_path):
        head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a"
        for kind in (0, 8, 9):
            (tmp_path / "x.gguf").write_bytes(head + struct.pack("<IIQ", 9, kind, 2**60))
            assert refusal(tmp_path / "x.gguf").startswith("is truncated or damaged")

    def test_endlessly_nested_gguf_arrays(self, tmp_path):
        head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a"
        (tmp_path / "x.gguf").write_bytes(head + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 10**5)
        assert refusal(tmp_path / "x.gguf")

    def test_gguf_tensors_that_overlap(self, tmp_path):
        tensor = struct.pack("<Q", 1) + b"%c" + struct.pack("<IQIQ", 1, 4, 0, 0)
        head = b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + tensor % b"a" + tensor % b"b"
        (tmp_path / "x.gguf").write_bytes(head + bytes(200))
        assert (
            refusal(tmp_path / "x.gguf") == "is damaged: b begins at 96, but the tensor before it ends at 112"
        )

    def test_orbax_directory_with_missing_files(self, tmp_path):
        for lost in ("_METADATA", "manifest.ocdbt", "d"):
            save(tmp_path / lost, few(), format="orbax")
            path = tmp_path / lost / lost
            path.rename(tmp_path / f"moved-{lost}")
            assert refusal(tmp_path / lost)

    def test_safetensors_npz_and_gguf_need_no_package(self, tmp_path):
        for format in ("safetensors", "npz", "gguf"):
            valid(tmp_path / (FILES | {"gguf": "x.gguf"})[format], format)
        program = (
            "import sys\nfrom attention_bridge import checkpoints\n"
            "for path in sys.argv[1:]:\n"
            "    with checkpoints.open(path) as reader:\n"
            "        assert dict(reader.items())\n"
            "assert not {'torch', 'jax', 'flax', 'h5py', 'gguf'} & sys.modules.keys()\n"
        )
        subprocess.run([sys.executable, "-c", program, *tmp_path.iterdir()], check=True)


def test_system_errors_are_both_kinds_of_error():
    with pytest.raises(CheckpointError) as caught, faults.reading("x", "file"):
        raise PermissionError(13, "Permission denied")
    assert isinstance(caught.value, DiskError)
    assert isinstance(caught.value, OSError)
    assert str(caught.value) == "x cannot be read: Permission denied"


def test_valid_checkpoints_do_not_raise(tmp_path):
    for format, name in FILES.items():
        save(tmp_path / name, few(), format=format)
        assert bits(load(tmp_path / name)) == bits(few())
