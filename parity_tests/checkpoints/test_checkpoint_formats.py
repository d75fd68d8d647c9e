"""Every checkpoint format: bit-exact round trips, and exchange with the format's own library."""

import json
import os
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import serialization

from attention_bridge import checkpoints
from attention_bridge.checkpoints import format_detection
from attention_bridge.errors import CheckpointError
from parity_tests.helpers.checkpoint_samples import (
    DTYPES,
    LACKING,
    WRITTEN,
    bits,
    few,
    gguf_bytes,
    load,
    random_bits,
    save,
    specs_of,
)

os.environ.setdefault("KERAS_BACKEND", "torch")


def path_of(tmp_path, format):
    return tmp_path / WRITTEN[format]


def options(format):
    return {"format": format} if format == "orbax" else {}


@pytest.mark.parametrize("format", WRITTEN)
class TestRoundTrip:
    def test_every_dtype_survives_bit_for_bit(self, tmp_path, format):
        tensors = {}
        for name in DTYPES.keys() - LACKING[format]:
            tensors[f"{name}.matrix"] = random_bits((2, 3), DTYPES[name])
            tensors[f"{name}.scalar"] = random_bits((), DTYPES[name], 1)
            if format != "orbax":
                tensors[f"{name}.nothing"] = random_bits((0, 3), DTYPES[name])
        save(path_of(tmp_path, format), tensors, **options(format))
        assert bits(load(path_of(tmp_path, format))) == bits(tensors)

    def test_transposed_strided_and_big_endian_arrays_keep_their_values(self, tmp_path, format):
        matrix = random_bits((4, 6), np.float32)
        half = random_bits((4, 6), ml_dtypes.bfloat16)
        swapped = np.arange(12, dtype=">f4").reshape(3, 4)
        pairs = (np.arange(4) + 1j).astype(">c8")
        views = {
            "t": matrix.T,
            "s": matrix[::2, ::-3],
            "h": half.T,
            "b": swapped,
            "bt": swapped.T,
            "c": pairs,
        }
        save(path_of(tmp_path, format), views, **options(format))
        native = {name: np.asarray(a, a.dtype.newbyteorder("="), order="C") for name, a in views.items()}
        assert bits(load(path_of(tmp_path, format))) == bits(native)

    def test_names_and_nesting_survive(self, tmp_path, format):
        tensors = {"a.b.0": np.ones(2), "a.b.10": np.zeros(3), "ünï.文": np.ones(1), "x y": np.ones(5)}
        save(path_of(tmp_path, format), tensors, **options(format))
        assert bits(load(path_of(tmp_path, format))) == bits(tensors)

    def test_format_is_detected_with_its_evidence(self, tmp_path, format):
        save(path_of(tmp_path, format), few(), **options(format))
        found = checkpoints.find(path_of(tmp_path, format))
        assert (found.format, found.path) == (format, path_of(tmp_path, format))
        assert found.evidence
        with checkpoints.open(path_of(tmp_path, format)) as reader:
            assert reader.format == format

    def test_arrays_read_are_writable_and_change_no_file(self, tmp_path, format):
        tensors = {"w": np.ones((3, 2), np.float32)}
        save(path_of(tmp_path, format), tensors, **options(format))
        with checkpoints.open(path_of(tmp_path, format)) as reader:
            reader.read("w")[...] = 0
        assert bits(load(path_of(tmp_path, format))) == bits(tensors)

    def test_missing_tensor_name_raises(self, tmp_path, format):
        save(path_of(tmp_path, format), few(), **options(format))
        with (
            checkpoints.open(path_of(tmp_path, format)) as reader,
            pytest.raises(CheckpointError, match=r"has no tensor nowhere$"),
        ):
            reader.read("nowhere")


@pytest.mark.parametrize("source", WRITTEN)
@pytest.mark.parametrize("target", WRITTEN)
def test_any_format_streams_into_any_other(tmp_path, source, target):
    save(tmp_path / f"from{WRITTEN[source]}", few(), **options(source))
    with checkpoints.open(tmp_path / f"from{WRITTEN[source]}") as reader:
        checkpoints.save(path_of(tmp_path, target), reader.items(), reader.specs, **options(target))
    assert bits(load(path_of(tmp_path, target))) == bits(few())


class TestSafetensors:
    def test_library_reads_written_files(self, tmp_path):
        tensors = {
            name: random_bits((2, 3), DTYPES[name])
            for name in ("uint8", "float64", "bool", "int16", "float16")
        }
        save(tmp_path / "x.safetensors", tensors, metadata={"ä": "ö"})
        assert bits(safetensors.numpy.load_file(tmp_path / "x.safetensors")) == bits(tensors)
        with checkpoints.open(tmp_path / "x.safetensors") as reader:
            assert reader.metadata == {"ä": "ö"}

    def test_written_file_equals_the_librarys(self, tmp_path):
        tensors = {
            "a": random_bits((3, 5), np.float32),
            "b": random_bits((3,), np.int16),
            "c": random_bits((3,), bool),
        }
        save(tmp_path / "x.safetensors", tensors)
        assert (tmp_path / "x.safetensors").read_bytes() == safetensors.numpy.save(tensors)

    def test_tensors_are_aligned_and_may_come_in_any_order(self, tmp_path):
        tensors = {
            "a": random_bits((3,), np.int8),
            "b": random_bits((3,), np.float64),
            "c": random_bits((3,), np.int16),
        }
        backwards = reversed(tensors.items())
        checkpoints.save(tmp_path / "x.safetensors", backwards, specs_of(tensors))
        with checkpoints.open(tmp_path / "x.safetensors") as reader:
            assert bits(dict(reader.items())) == bits(tensors)
            assert all(array.flags.owndata for _, array in reader.items())
            assert all(array.ctypes.data % array.itemsize == 0 for _, array in reader.items())

    def test_only_the_header_is_read_before_a_tensor_is_requested(self, tmp_path):
        save(tmp_path / "x.safetensors", few())
        with checkpoints.open(tmp_path / "x.safetensors") as reader:
            (tmp_path / "x.safetensors").write_bytes(b"")
            assert reader.specs == specs_of(few())
            with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged: it has become shorter"):
                reader.read("encoder.0.weight")


class TestShards:
    def test_shards_are_filled_and_indexed(self, tmp_path):
        tensors = {f"t{i}": random_bits((size,), np.uint8, i) for i, size in enumerate([3, 4, 9, 1, 1, 5])}
        save(tmp_path / "model.safetensors", tensors, max_shard_bytes=7)
        names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
        assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "model.safetensors.index.json"]
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"] == {"total_size": 23}
        assert [list(safetensors.numpy.load_file(tmp_path / name)) for name in names] == [
            ["t0", "t1"],
            ["t2"],
            ["t3", "t4", "t5"],
        ]
        assert bits(load(tmp_path)) == bits(checkpoints.read(tmp_path)) == bits(tensors)

    def test_checkpoint_that_fits_into_one_shard_is_one_file(self, tmp_path):
        save(tmp_path / "model.safetensors", few(), max_shard_bytes=10**6)
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
        assert bits(load(tmp_path)) == bits(few())

    @pytest.mark.parametrize("limits", [(None, 20), (20, 20), (20, 60), (20, None)])
    def test_new_checkpoint_replaces_an_older_one(self, tmp_path, limits):
        old = {name: random_bits(a.shape, a.dtype, 9) for name, a in few().items()}
        save(tmp_path / "model.safetensors", old, max_shard_bytes=limits[0])
        save(tmp_path / "model.safetensors", few(), max_shard_bytes=limits[1])
        assert bits(load(tmp_path)) == bits(few())
        if limits[1]:
            index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
            files = {*index["weight_map"].values(), "model.safetensors.index.json"}
            assert {path.name for path in tmp_path.iterdir()} == files

    def test_torch_shards_are_read(self, tmp_path):
        parts = {"one.bin": {"a": torch.ones(2)}, "two.bin": {"b": torch.zeros(3, dtype=torch.bfloat16)}}
        for file, part in parts.items():
            torch.save(part, tmp_path / file)
        weight_map = {name: file for file, part in parts.items() for name in part}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        expected = {"a": np.ones(2, np.float32), "b": np.zeros(3, ml_dtypes.bfloat16)}
        assert bits(load(tmp_path)) == bits(expected)


class TestTorch:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_training_checkpoint_is_flattened(self, tmp_path, zipped):
        weight = torch.randn(3, 5)
        layers = [{"w": weight.T}, {"w": torch.nn.Parameter(weight[::2])}]
        tree = {
            "state_dict": {"layers": layers, "tied": weight},
            "epoch": 3,
            "optimizer": {"state": {0: weight + 1}},
        }
        torch.save(tree, tmp_path / "x.ckpt.pt", _use_new_zipfile_serialization=zipped)
        assert bits(load(tmp_path / "x.ckpt.pt")) == bits(
            {
                "state_dict.layers.0.w": weight.numpy().T,
                "state_dict.layers.1.w": weight.numpy()[::2],
                "state_dict.tied": weight.numpy(),
                "optimizer.state.0": weight.numpy() + 1,
            }
        )

    def test_torch_reads_written_files(self, tmp_path):
        save(tmp_path / "x.pt", few())
        loaded = torch.load(tmp_path / "x.pt", weights_only=True)
        assert loaded["encoder.0.bias"].dtype == torch.bfloat16
        assert loaded["encoder.0.weight"].numpy().tobytes() == few()["encoder.0.weight"].tobytes()


class TestNpz:
    @pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
    def test_files_of_numpy_are_read(self, tmp_path, write):
        tensors = {
            "a.b": random_bits((3, 5), np.float32),
            "by columns": np.asfortranarray(random_bits((2, 7), np.int32)),
        }
        write(tmp_path / "x.npz", **tensors, swapped=np.arange(3, dtype=">i4"))
        expected = tensors | {"swapped": np.arange(3, dtype=np.int32)}
        assert bits(load(tmp_path / "x.npz")) == bits(expected)

    def test_numpy_reads_written_files(self, tmp_path):
        save(tmp_path / "x.npz", few(), metadata={"a": "b"})
        with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
            assert file["encoder.0.bias"].dtype == np.dtype("V2")
            assert json.loads(str(file["__dtypes__"])) == {"encoder.0.bias": "bfloat16"}
            assert file["encoder.0.weight"].tobytes() == few()["encoder.0.weight"].tobytes()
        with checkpoints.open(tmp_path / "x.npz") as reader:
            assert reader.metadata == {"a": "b"}


class TestFlax:
    def test_files_of_flax_are_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 40)
        tree = {
            "params": {"dense": {"kernel": random_bits((5, 3), np.float32), "bias": np.float32(2.5)}},
            "step": 3,
        }
        (tmp_path / "x.msgpack").write_bytes(serialization.to_bytes(tree))
        assert bits(load(tmp_path / "x.msgpack")) == bits(
            {
                "params.dense.kernel": tree["params"]["dense"]["kernel"],
                "params.dense.bias": np.array(2.5, np.float32),
            }
        )

    def test_flax_reads_written_files(self, tmp_path):
        save(tmp_path / "x.msgpack", few())
        tree = serialization.msgpack_restore((tmp_path / "x.msgpack").read_bytes())
        assert tree["encoder"]["0"]["bias"].dtype == ml_dtypes.bfloat16
        assert tree["encoder"]["0"]["weight"].tobytes() == few()["encoder.0.weight"].tobytes()


class TestOrbax:
    def test_directories_of_orbax_are_read(self, tmp_path):
        import orbax.checkpoint as ocp
        from flax import nnx

        model = nnx.Linear(3, 5, rngs=nnx.Rngs(0))
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(
                tmp_path / "nnx", nnx.to_pure_dict(nnx.state(model)) | {"more": [np.ones(2), np.zeros(3)]}
            )
        assert bits(load(tmp_path / "nnx")) == bits(
            {
                "bias": np.asarray(model.bias[...]),
                "kernel": np.asarray(model.kernel[...]),
                "more.0": np.ones(2),
                "more.1": np.zeros(3),
            }
        )

    def test_orbax_reads_written_directories(self, tmp_path):
        import orbax.checkpoint as ocp

        save(tmp_path / "x", few(), format="orbax")
        with ocp.PyTreeCheckpointer() as checkpointer:
            restore = ocp.RestoreArgs(restore_type=np.ndarray)
            args = {
                "encoder": {"0": {"weight": restore, "bias": restore}},
                "größe": restore,
                "scale": restore,
            }
            tree = checkpointer.restore(tmp_path / "x", restore_args=args)
        assert tree["encoder"]["0"]["bias"].tobytes() == few()["encoder.0.bias"].tobytes()


def keras_bytes(variable):
    """The bits of a Keras variable on the torch backend."""
    return variable.value.detach().contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
class TestKeras:
    @pytest.fixture
    def models(self):
        import keras

        def build(dtype):
            layers = [keras.layers.Input((3,)), keras.layers.Dense(5, dtype=dtype), keras.layers.Dense(2)]
            return keras.Sequential(layers)

        return build

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_keras_and_this_package_read_each_others_files(self, tmp_path, models, dtype):
        first, second = models(dtype), models(dtype)
        first.save_weights(tmp_path / "a.weights.h5")
        tensors = load(tmp_path / "a.weights.h5")
        assert tensors.keys() == {f"layers/dense{i}/vars/{j}" for i in ("", "_1") for j in (0, 1)}
        assert tensors["layers/dense/vars/0"].dtype == np.dtype(getattr(ml_dtypes, dtype, dtype))
        save(tmp_path / "b.weights.h5", tensors)
        second.load_weights(tmp_path / "b.weights.h5")
        for one, other in zip(first.weights, second.weights, strict=True):
            assert keras_bytes(one) == keras_bytes(other)

    def test_links_to_other_files_raise(self, tmp_path):
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["secret"] = np.ones(3)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["own"] = np.ones(2)
            file["linked"] = h5py.ExternalLink("other.h5", "secret")
        with pytest.raises(CheckpointError, match="linked is a soft or external link"):
            checkpoints.open(tmp_path / "x.h5")
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "secret", (3,))
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.create_virtual_dataset("virtual", layout)
        with pytest.raises(CheckpointError, match=r"values of virtual are in another file$"):
            checkpoints.open(tmp_path / "x.h5")


class TestGguf:
    def test_files_of_the_package_are_read(self, tmp_path):
        tensors = {
            name.removeprefix("x."): random_bits((2, 3, 5), DTYPES[name.removeprefix("x.")])
            for name in ("float32", "float16", "bfloat16", "float64", "int8", "int16", "int32", "int64")
        }
        gguf_bytes(tmp_path / "x.gguf", tensors)
        assert bits(load(tmp_path / "x.gguf")) == bits(tensors)
        with checkpoints.open(tmp_path / "x.gguf") as reader:
            assert reader.metadata["général.text"] == "wörter"
            assert reader.metadata["list.strings"] == ["a", "bc", ""]
            np.testing.assert_array_equal(reader.metadata["list.numbers"], [1, 2, 3])
            assert (reader.metadata["one.u32"], reader.metadata["one.f64"], reader.metadata["one.bool"]) == (
                7,
                0.5,
                True,
            )

    def test_gguf_is_read_only(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"x\.gguf cannot be written: GGUF files are only read$"):
            save(tmp_path / "x.gguf", few())


class TestFinding:
    def test_evidence_is_named(self, tmp_path):
        save(tmp_path / "model.safetensors", few())
        assert "length of a JSON header" in checkpoints.find(tmp_path / "model.safetensors").evidence
        assert checkpoints.find(tmp_path).evidence.startswith(
            "the directory has model.safetensors, and its first"
        )

    def test_file_with_an_unknown_name_is_detected_by_its_content(self, tmp_path):
        for format in ("safetensors", "torch", "npz", "keras"):
            save(tmp_path / format, few(), format=format)
            assert checkpoints.find(tmp_path / format).format == format
            assert load(tmp_path / format).keys() == few().keys()

    def test_single_checkpoint_in_a_directory_is_found(self, tmp_path):
        save(tmp_path / "weights.npz", few())
        (tmp_path / "config.json").write_text("{}")
        assert checkpoints.find(tmp_path).path == tmp_path / "weights.npz"
        save(tmp_path / "weights.pt", few())
        with pytest.raises(CheckpointError, match=r"holds config\.json, weights\.npz, weights\.pt$"):
            checkpoints.find(tmp_path)

    @pytest.mark.parametrize(
        ("given", "called", "said"),
        [
            (
                "npz",
                "x.safetensors",
                "should be safetensors by its name, but it is a zip file of .npy entries",
            ),
            (
                "safetensors",
                "x.npz",
                "should be npz by its name, but its first bytes are the length of a JSON header",
            ),
            ("torch", "x.npz", "should be npz by its name, but it is a zip file with a data.pkl"),
            ("keras", "x.pt", "should be torch by its name, but it has the first bytes of keras files"),
            ("safetensors", "x.safetensors.index.json", "is not the index of a sharded checkpoint"),
        ],
    )
    def test_wrong_format_under_a_known_name_raises(self, tmp_path, given, called, said):
        save(tmp_path / "right", few(), format=given)
        (tmp_path / "right").rename(tmp_path / called)
        with pytest.raises(CheckpointError) as caught:
            checkpoints.open(tmp_path / called)
        assert str(caught.value).startswith(f"{tmp_path / called} {said}")

    def test_other_zip_files_raise(self, tmp_path):
        for name in ("x.zip", "x.npz"):
            with zipfile.ZipFile(tmp_path / name, "w") as archive:
                archive.writestr("readme.txt", "text")
            with pytest.raises(CheckpointError, match=r"it is a zip file of other things than tensors$"):
                checkpoints.open(tmp_path / name)

    def test_every_detected_format_can_be_opened(self):
        assert {*format_detection.SUFFIXES.values()} | {"orbax"} == checkpoints.OPENERS.keys()
