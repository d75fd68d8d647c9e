"""How fast a sharded safetensors checkpoint streams through reading and writing: `python -m benchmarks.checkpoints`.

Measured against copying the same files and waiting until they are on disk, turn by turn; each turn is a process of its
own, whose high-water mark says how much memory it took. On Linux.
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
        checkpoint_mib: the tensors of the checkpoint, in MiB.
        largest_mib: the largest tensor.
        ours_mib_per_s: how fast it is read and written.
        copy_mib_per_s: how fast its files are copied.
        ratio: ours over copying.
        peak_mib: the most memory that the process took which read and wrote, mapped files included.
    """

    checkpoint_mib: float
    largest_mib: float
    ours_mib_per_s: float
    copy_mib_per_s: float
    ratio: float
    peak_mib: float


def make(directory: Path, size: int) -> None:
    """Write a checkpoint of about `size` bytes in shards: tensors of different sizes, the largest 128 MiB."""
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
        source: a checkpoint's directory.
        target: an empty directory.
        transform: from name and array to an array of the same shape and dtype.
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
    """A transform that computes with every number."""
    return -array


def convert(source: Path, target: Path) -> None:
    """Convert a checkpoint: every matrix is transposed, and all numbers are looked at."""
    convert_checkpoint(source, target / NAME, "hf.llama", "jax_attention", force=True)


WAYS: dict[str, Callable[[Path, Path], Any]] = {
    "copy": copy,
    "stream": stream,
    "convert": convert,
    "negate": lambda source, target: stream(source, target, negate),
}


def turn(way: str, source: Path) -> tuple[float, float]:
    """Seconds and MiB of one way, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=source.parent) as target:
        command = [sys.executable, "-m", "benchmarks.checkpoints", "--way", way, str(source), target]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, mib = json.loads(done.stdout)
    return seconds, mib


def compare(source: Path, way: str) -> Figures:
    """Measure both, turn by turn."""
    turns = [(turn("copy", source), turn(way, source)) for _ in range(TURNS)]
    with checkpoints.open(source) as reader:
        sizes = [np.prod(spec.shape) * spec.dtype.itemsize / MIB for spec in reader.specs.values()]
    size = float(sum(sizes))
    ours, theirs = (median(t[i][0] for t in turns) for i in (1, 0))
    peak = max(t[1][1] for t in turns)
    return Figures(size, float(max(sizes)), size / ours, size / theirs, theirs / ours, peak)


def main(
    source: Annotated[
        Path | None, typer.Argument(help="A checkpoint's directory; by default a new one.")
    ] = None,
    target: Annotated[Path | None, typer.Argument(hidden=True)] = None,
    size_mib: Annotated[int, typer.Option(help="Of the new checkpoint.")] = 1024,
    way: Annotated[str, typer.Option(help="`stream`; `convert` transposes, `negate` computes.")] = "stream",
    place: Annotated[
        Path | None, typer.Option(help="Where to write; by default where temporary files go.")
    ] = None,
) -> None:
    """Print how fast a checkpoint is read and written, and with how much memory, as an object."""
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
