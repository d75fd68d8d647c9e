"""A disk that becomes full during an HDF5 write, which in HDF5 itself ends the process or prints tracebacks."""

import errno
import subprocess
import sys

import numpy as np
import pytest

from attention_bridge import checkpoints
from attention_bridge.checkpoints.held_file import HeldFile
from attention_bridge.errors import DiskError
from attention_bridge.weights.leaves import Spec

TENSORS = {f"layers.{i}": np.full((64, 64), i, np.float32) for i in range(12)}
SPECS = {name: Spec(x.shape, x.dtype) for name, x in TENSORS.items()}
CHILD = """
import resource, sys
import numpy as np
from attention_bridge import checkpoints
from attention_bridge.errors import DiskError
from attention_bridge.weights.leaves import Spec

tensors = {f"layers.{i}": np.ones((64, 64), np.float32) for i in range(12)}
specs = {name: Spec(x.shape, x.dtype) for name, x in tensors.items()}
for limit in (100, 5000, 20000, 100000, 180000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoints.save(sys.argv[1], tensors.items(), specs)
    except DiskError as error:
        print(error)
"""


def test_every_size_limit_gives_one_sentence(tmp_path):
    target = tmp_path / "x.weights.h5"
    done = subprocess.run([sys.executable, "-c", CHILD, str(target)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{target} cannot be written: File too large"] * 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(errno.ENOSPC, "full"), DiskError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
@pytest.mark.parametrize("allowed", [0, 1, 4, 9])
def test_write_error_is_raised_after_hdf5_has_closed(tmp_path, monkeypatch, error, raised, allowed):
    written = []

    class Failing:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, block):
            written.append(len(block))
            if len(written) > allowed:
                raise error
            return self.file.write(block[: max(1, len(block) // 2)])

    start = HeldFile.__init__

    def begin(self, path):
        start(self, path)
        self.file = Failing(self.file)

    monkeypatch.setattr(HeldFile, "__init__", begin)
    with pytest.raises(raised):
        checkpoints.save(tmp_path / "x.weights.h5", TENSORS.items(), SPECS)
    assert list(tmp_path.iterdir()) == []


def test_written_file_is_read_back(tmp_path):
    checkpoints.save(tmp_path / "x.weights.h5", TENSORS.items(), SPECS)
    with checkpoints.open(tmp_path / "x.weights.h5") as reader:
        assert all(np.array_equal(reader.read(name), x) for name, x in TENSORS.items())
