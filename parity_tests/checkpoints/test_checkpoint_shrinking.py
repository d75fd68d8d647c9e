"""Files of torch.save: tensors stay within the file's contents, even if it shrinks during reading."""

import io
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from attention_bridge import checkpoints
from attention_bridge.checkpoints.pickle_scan import scan
from attention_bridge.errors import CheckpointError
from parity_tests.helpers.fuzz_samples import SAMPLES
from parity_tests.helpers.mutants import zip_entries

ROOT = Path(__file__).parents[2]
SHRINKING = """
import os, sys
from attention_bridge import checkpoints
from attention_bridge.checkpoints.pickle_scan import scan
from attention_bridge.errors import CheckpointError
with checkpoints.open(sys.argv[1]) as reader:
    first = reader.read("a")
    os.truncate(sys.argv[1], 2**12)
    assert float(first.sum()) == first.size, "an array that was read stays valid"
    try:
        reader.read("b").sum()
    except CheckpointError as error:
        print(error)
"""


def test_file_that_shrinks_during_reading_raises_one_line(tmp_path):
    """In a child process, because reading a truncated memory map would kill it."""
    torch.save({"a": torch.ones(2**18), "b": torch.ones(2**18)}, tmp_path / "x.pt")
    done = subprocess.run(
        [sys.executable, "-c", SHRINKING, tmp_path / "x.pt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "it has become shorter" in done.stdout


@pytest.mark.slow
def test_only_the_requested_tensor_takes_memory(tmp_path):
    torch.save({f"t{i}": torch.full((2**22,), float(i)) for i in range(8)}, tmp_path / "x.pt")
    code = (
        "import resource, sys, torch; from attention_bridge import checkpoints\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before = peak()\n"
        "with checkpoints.open(sys.argv[1]) as reader:\n"
        "    for name, array in reader.items(): assert array[-1] == float(name[1:])\n"
        "print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x.pt"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert float(done.stdout) < 64, done.stderr  # MiB; all tensors together have 128


def forged(path, tree, old, new):
    """A file of torch.save with bytes of its pickle replaced; lengths and checksums are right."""
    file = io.BytesIO()
    torch.save(tree, file)
    entries = zip_entries(file.getvalue())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            changed = data.replace(old, new) if name.endswith("data.pkl") else data
            assert not name.endswith("data.pkl") or changed != data
            archive.writestr(name, changed)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"K\x0ct", b"K\x0dt", "its pickle"),
        (b"K\x0c\x85", b"K\x0d\x85", "ends at 52"),
        (b"K\x00K\x0c\x85", b"K\x01K\x0c\x85", "ends at 52"),
        (b"K\x01\x85", b"K\x02\x85", "ends at 92"),
    ],
    ids=["storage", "size", "offset", "stride"],
)
def test_tensor_that_extends_beyond_its_entry_raises(tmp_path, old, new, message):
    """PyTorch would read bytes of other entries, or invalid memory."""
    forged(tmp_path / "x.pt", {"w": torch.arange(12.0), "secret": torch.ones(5)}, old, new)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.open(tmp_path / "x.pt")


def test_views_conjugates_and_other_byte_orders_keep_their_values(tmp_path):
    path = SAMPLES["torch"].write(tmp_path)
    with checkpoints.open(path) as reader:
        found = {name: np.array(array) for name, array in reader.items()}
    base = np.arange(24, dtype=np.float32)
    np.testing.assert_array_equal(found["model.w"], base[2:14].reshape(3, 4).T)
    np.testing.assert_array_equal(found["model.tied"], base[2:14])
    assert found["list.1"].shape == (0, 4)
    np.testing.assert_array_equal(found["repeated"], np.ones((5, 3)))

    tree = {"conj": torch.tensor([1 + 2j]).conj(), "neg": torch.tensor([1 + 2j]).conj().imag}
    torch.save(tree, tmp_path / "c.pt")
    with checkpoints.open(tmp_path / "c.pt") as reader:
        assert reader.read("conj")[0] == 1 - 2j
        assert reader.read("neg")[0] == -2

    file = io.BytesIO()
    torch.save({"w": torch.tensor([1.0, 2.0])}, file)
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as archive:
        for name, data in zip_entries(file.getvalue()):
            swapped = np.frombuffer(data, "<f4").astype(">f4").tobytes() if "/data/" in name else data
            archive.writestr(name, b"big" if name.endswith("byteorder") else swapped)
    with checkpoints.open(tmp_path / "big.pt") as reader:
        assert reader.read("w").tolist() == [1.0, 2.0]


def test_torchscript_raises_as_code(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        checkpoints.open(tmp_path / "x.pt")


class TestPickles:
    @pytest.mark.parametrize("old_format", [False, True])
    def test_duplicate_key_raises(self, tmp_path, old_format):
        """Of two tensors with one name, unpickling keeps the second."""
        file = io.BytesIO()
        tree = {"inner": {"first": torch.ones(3)}, "other": torch.zeros(3)}
        torch.save(tree, file, _use_new_zipfile_serialization=not old_format)
        if old_format:
            (tmp_path / "x.pt").write_bytes(file.getvalue().replace(b"other", b"inner"))
        else:
            forged(tmp_path / "x.pt", tree, b"other", b"inner")
        with pytest.raises(CheckpointError, match="gives the key 'inner' twice"):
            checkpoints.open(tmp_path / "x.pt")

    @pytest.mark.parametrize(
        ("old", "new"), [(b"K\x01\x85", b"J\xff\xff\xff\xff\x85"), (b"K\x00K\x0c", b"J\xff\xff\xff\xffK\x0c")]
    )
    def test_negative_strides_and_offsets_raise(self, tmp_path, old, new):
        """PyTorch would change them silently."""
        forged(tmp_path / "x.pt", {"w": torch.arange(12.0)}, old, new)
        with pytest.raises(CheckpointError, match="negative size, stride or offset -1"):
            checkpoints.open(tmp_path / "x.pt")

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_scan_follows_what_pickle_writes(self, protocol):
        shared = ("a", 1)
        tree = {
            "a": [1, 2.5, None, True, {"a": b"x", 1: {2}}, shared, shared],
            ("k", 2): OrderedDict(b=[()], c=3),
        }
        scan(io.BytesIO(pickle.dumps([tree, dict.fromkeys(range(2000)), slice], protocol)))

    def test_deep_tuple_raises(self):
        """Hashing it as a key would crash the process."""
        with pytest.raises(ValueError, match="nests more than 100 levels"):
            scan(io.BytesIO(b"\x80\x02})" + b"\x85" * 10**6 + b"Ns."))

    def test_scan_takes_linear_time(self):
        """Many marks above many items: a search for each mark would take hours."""
        scan(io.BytesIO(b"\x80\x02" + b"N" * 10**5 + b"(N1" * 10**5 + b"(10" + b"0" * (10**5 - 2) + b"."))

    def test_state_dict_of_a_module_is_read(self, tmp_path):
        module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        torch.save({"model": module.state_dict(), "optimizer": torch.optim.Adam(module.parameters()).state_dict(),
                    "parameter": torch.nn.Parameter(torch.ones(2))}, tmp_path / "x.pt")  # fmt: skip
        with checkpoints.open(tmp_path / "x.pt") as reader:
            assert "model.0.weight" in reader.specs
            np.testing.assert_array_equal(reader.read("model.0.weight"), module[0].weight.detach())
            np.testing.assert_array_equal(reader.read("parameter"), np.ones(2))
