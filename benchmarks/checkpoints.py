"""Speed of reading and writing a sharded safetensors checkpoint: `python -m benchmarks.checkpoints`.

The baseline copies the same files and waits until they are on disk. Both run in turns, each turn in its own process,
whose high-water mark gives the peak memory. Linux only.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from attention_bridge import checkpoints
from attention_bridge.checkpoints import Spec
from attention_bridge.checkpoints.atomic import flush
from attention_bridge.pretrained.conversion import convert_checkpoint
from benchmarks.process import status

MIB = 2**20
TURNS = 3
SHARD = 2**28
LARGEST = 2**27
NAME = "model.safetensors"

Transform = Callable[[str, np.ndarray], np.ndarray]


class Figures(NamedTuple):
    """One comparison.

    Attributes:
        checkpoint_mib: size of all tensors, in MiB.
        largest_mib: size of the largest tensor, in MiB.
        ours_mib_per_s: speed of reading and writing by this package, in MiB per second.
        copy_mib_per_s: speed of copying the files, in MiB per second.
        ratio: this package's speed over the speed of copying.
        peak_mib: peak memory of the process that reads and writes, including mapped files, in MiB.
    """

    checkpoint_mib: float
    largest_mib: float
    ours_mib_per_s: float
    copy_mib_per_s: float
    ratio: float
    peak_mib: float


def make(directory: Path, size: int) -> None:
    """Write a sharded checkpoint of about `size` bytes with tensors of different sizes, the largest 128 MiB."""
    sizes = list(_sizes(size))
    dtype = np.dtype(np.float32)
    specs = {
        f"model.layers.{i}.mlp.up_proj.weight": Spec((n // 4096, 1024), dtype) for i, n in enumerate(sizes)
    }
    rng = np.random.default_rng(0)
    items = ((name, rng.standard_normal(spec.shape, dtype)) for name, spec in specs.items())
    checkpoints.save(directory / NAME, items, specs, max_shard_bytes=SHARD)


def _sizes(size: int) -> Iterator[int]:
    left, i = size, 0
    while left >= 4096:
        yield (now := min(LARGEST >> (i % 4), left // 4096 * 4096))
        left, i = left - now, i + 1


def stream(source: Path, target: Path, transform: Transform | None = None) -> None:
    """Read a checkpoint and write it again, tensor by tensor.

    Args:
        source: directory of the checkpoint.
        target: an empty directory.
        transform: function of name and array that returns an array of the same shape and dtype; None for no change.
    """
    with checkpoints.open(source) as reader:
        items = ((name, transform(name, array) if transform else array) for name, array in reader.items())
        checkpoints.save(target / NAME, items, reader.specs, max_shard_bytes=SHARD)


def copy(source: Path, target: Path) -> None:
    """Copy the files, and wait until they are on disk."""
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
        flush(target / path.name)


def negate(name: str, array: np.ndarray) -> np.ndarray:
    """Negate all elements: a transform that touches every number."""
    return -array


def convert(source: Path, target: Path) -> None:
    """Convert a checkpoint: transposes every matrix and reads all numbers."""
    convert_checkpoint(source, target / NAME, "hf.llama", "jax_attention", force=True)


WAYS: dict[str, Callable[[Path, Path], Any]] = {
    "copy": copy,
    "stream": stream,
    "convert": convert,
    "negate": lambda source, target: stream(source, target, negate),
}


def turn(way: str, source: Path) -> tuple[float, float]:
    """Run one of `WAYS` in its own process; returns seconds and peak MiB."""
    with tempfile.TemporaryDirectory(dir=source.parent) as target:
        command = [sys.executable, "-m", "benchmarks.checkpoints", "--way", way, str(source), target]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, mib = json.loads(done.stdout)
    return seconds, mib


def compare(source: Path, way: str) -> Figures:
    """Measure `way` and copying in turns."""
    turns = [(turn("copy", source), turn(way, source)) for _ in range(TURNS)]
    with checkpoints.open(source) as reader:
        sizes = [np.prod(spec.shape) * spec.dtype.itemsize / MIB for spec in reader.specs.values()]
    size = float(sum(sizes))
    ours, theirs = (median(t[i][0] for t in turns) for i in (1, 0))
    peak = max(t[1][1] for t in turns)
    return Figures(size, float(max(sizes)), size / ours, size / theirs, theirs / ours, peak)


def main(
    source: Annotated[
        Path | None, typer.Argument(help="Directory of a checkpoint; by default a new one.")
    ] = None,
    target: Annotated[Path | None, typer.Argument(hidden=True)] = None,
    size_mib: Annotated[int, typer.Option(help="Size of the new checkpoint, in MiB.")] = 1024,
    way: Annotated[
        str, typer.Option(help="`stream`, `convert` (transposes) or `negate` (computes).")
    ] = "stream",
    place: Annotated[
        Path | None, typer.Option(help="Directory to write to; by default that for temporary files.")
    ] = None,
) -> None:
    """Print the speed of reading and writing a checkpoint, and the peak memory, as a JSON object."""
    if source and target:
        start = time.perf_counter()
        WAYS[way](source, target)
        print(json.dumps((time.perf_counter() - start, status("VmHWM") / MIB)))
        return
    with tempfile.TemporaryDirectory(dir=place) as directory:
        if source is None:
            source = Path(directory) / "source"
            source.mkdir()
            make(source, size_mib * MIB)
        print(json.dumps(compare(source, way)._asdict(), indent=1))


if __name__ == "__main__":
    typer.run(main)
