"""Random damage: reading a damaged file gives arrays as declared or raises one sentence.

Safetensors, GGUF, msgpack and torch's old files have no checksums: reading them may succeed and give wrong values. Zip
files have checksums, so npz and torch's new files give the right values or raise.
"""

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from attention_bridge import checkpoints
from attention_bridge.checkpoints import keras_h5
from attention_bridge.errors import CheckpointError
from parity_tests.helpers.checkpoint_samples import bits, few, gguf_bytes, random_bits, save
from parity_tests.helpers.mutants import mutated

NAMES = {
    "safetensors": "x.safetensors",
    "npz": "x.npz",
    "msgpack": "x.msgpack",
    "torch": "x.pt",
    "old torch": "x.pt",
    "gguf": "x.gguf",
    "index": "model.safetensors.index.json",
}
ENDLESS = (187, 1701)  # seeds of damage for which HDF5 2.0 never returns
MIB = 2**20
ALLOWED = 200 * MIB  # bytes of memory, for files of a few kB


@pytest.fixture(params=NAMES)
def valid(request, tmp_path):
    """The name of each format, with the path of a small valid file."""
    path = tmp_path / NAMES[request.param]
    if request.param == "index":
        save(tmp_path / "model.safetensors", few(), max_shard_bytes=90)
    elif request.param == "gguf":
        gguf_bytes(path, {"a.weight": random_bits((3, 5), np.float32), "b": random_bits((7,), np.float16)})
    elif request.param == "old torch":
        tensors = {"state": {"a": torch.randn(3, 5), "b": [torch.ones(7, dtype=torch.bfloat16)]}, "epoch": 3}
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    else:
        save(path, few())
    return request.param, path


def outcome(path):
    """`read` or `refused`; any other result fails the test. Checks the arrays, or the message."""
    try:
        with checkpoints.open(path) as reader:
            for name, array in reader.items():
                assert (array.shape, array.dtype) == reader.specs[name]
                assert array.size < MIB
                array.tobytes()
    except CheckpointError as error:
        sentence = str(error)
    else:
        return "read"
    assert "\n" not in sentence
    assert str(path.parent) in sentence
    return "refused"


def peak_memory():
    """The peak memory of this process, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the peak memory is read from /proc")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])


def damage(path, rounds):
    content = path.read_bytes()
    assert outcome(path) == "read"
    before = peak_memory()
    outcomes = []
    for seed in range(rounds):
        path.unlink()  # unlike a truncated file, a new file is not flushed to disk at once
        path.write_bytes(mutated(content, np.random.default_rng(seed)))
        outcomes.append(outcome(path))
    assert outcomes.count("refused") > rounds / 4, "most damage is no damage"
    assert peak_memory() - before < ALLOWED
    return outcomes


def test_random_damage_gives_arrays_or_one_sentence(valid):
    damage(valid[1], 2000)


@pytest.mark.slow
def test_much_random_damage_gives_arrays_or_one_sentence(valid):
    damage(valid[1], 20000)


@pytest.mark.slow
def test_random_damage_of_hdf5_ends_although_its_library_hangs(tmp_path, monkeypatch):
    """Two of the files make HDF5 hang. Only 100 files, because a child process reads the names of each first."""
    monkeypatch.setattr(keras_h5, "DEADLINE", 5.0)
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:  # in HDF5's default file layout
        for name, array in few().items():
            keras_h5._put(file, name, array)
    content, outcomes = path.read_bytes(), []
    for seed in (*ENDLESS, *range(98)):
        path.write_bytes(mutated(content, np.random.default_rng(seed)))
        outcomes.append(outcome(path))
    assert outcomes[: len(ENDLESS)] == ["refused"] * len(ENDLESS)
    assert outcomes.count("refused") > 100 / 4, "most damage is no damage"


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # tasks that Orbax leaves running
def test_random_damage_of_orbax_gives_the_right_values_or_one_sentence(tmp_path):
    whole, path, rounds = tmp_path / "whole", tmp_path / "x", 120
    save(whole, few(), format="orbax")
    files = sorted(file.relative_to(whole) for file in whole.rglob("*") if file.is_file())
    outcomes = []
    for seed in range(rounds):
        shutil.copytree(whole, path)
        file = path / files[seed % len(files)]
        file.write_bytes(mutated(file.read_bytes(), np.random.default_rng(seed)))
        outcomes.append(outcome(path))
        if outcomes[-1] == "read":
            with checkpoints.open(path) as reader:
                assert bits(dict(reader.items())) == bits(few())
        shutil.rmtree(path)
    assert set(outcomes) == {"read", "refused"}


@pytest.mark.parametrize("name", ["x.npz", "x.pt"])
def test_flipped_bit_raises_in_formats_with_checksums(tmp_path, name):
    tensors = {"w": random_bits((3, 5), np.int32, 1), "b": random_bits((7,), np.float16, 2)}
    save(tmp_path / name, tensors)
    content = (tmp_path / name).read_bytes()
    for tensor in tensors.values():
        [at] = [found.start() for found in re.finditer(re.escape(tensor.tobytes()), content)]
        for bit in range(8 * tensor.nbytes):
            flipped = bytearray(content)
            flipped[at + bit // 8] ^= 1 << bit % 8
            (tmp_path / name).unlink()
            (tmp_path / name).write_bytes(flipped)
            assert outcome(tmp_path / name) == "refused"


def test_flipped_bit_is_not_detected_in_safetensors(tmp_path):
    save(tmp_path / "x.safetensors", few())
    content = bytearray((tmp_path / "x.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "x.safetensors").write_bytes(content)
    assert outcome(tmp_path / "x.safetensors") == "read"
    assert bits(checkpoints.read(tmp_path / "x.safetensors")) != bits(few())
