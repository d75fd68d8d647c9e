"""Time and peak memory of loading a checkpoint, beside transformers: `python -m benchmarks.loading`.

A Llama-like checkpoint is written to a temporary directory. Each load runs in its own process, which has loaded a tiny
model of the same family before, so that all imports are done, and whose files are in the page cache. The time includes
one pass over all parameters, because a memory-mapped file is read only then. The peak is the highest resident set
(anonymous memory and mapped files) minus its size before loading. The time of a whole process, with its imports, is
measured in processes of its own. transformers loads into PyTorch. Linux only.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.process import reset_peak, status

MIB = 2**20
REFERENCE = "transformers"
WAYS = (REFERENCE, "torch", "jax")
HEADINGS = (
    "checkpoint",
    "way",
    "file MiB",
    "peak MiB",
    "held MiB",
    "peak / model",
    "s",
    "/ transformers",
    "process s",
    "/ transformers",
    "aim",
)
# The aim: peak <= MOST_COPIES x the model in its final dtype + ALLOWANCE, and time <= 1.0 x transformers.
MOST_COPIES, ALLOWANCE = 1.1, 200e6


class Case(NamedTuple):
    """One kind of checkpoint.

    Attributes:
        stored: dtype of the file.
        final: dtype of the model.
        shards: number of files.
    """

    stored: str
    final: str
    shards: int = 1

    def __str__(self) -> str:
        files = "1 file" if self.shards == 1 else f"{self.shards} shards"
        return f"{self.stored}, {files}" + ("" if self.final == self.stored else f", as {self.final}")


CASES = (
    Case("float32", "float32"),
    Case("bfloat16", "bfloat16"),
    Case("float32", "float32", shards=4),
    Case("float32", "bfloat16"),
)


class Load(NamedTuple):
    """Figures of one process.

    Attributes:
        seconds: time of loading and of one pass over all parameters.
        peak: rise of the resident set at its highest, in bytes.
        held: rise of the resident set after loading, in bytes.
        model: size of the parameters, in bytes.
        elements: number of parameters.
        checksum: sum of the parameters' bits as whole numbers; the order of elements does not change it.
        process: time of a whole process that loads the checkpoint, in seconds.
    """

    seconds: float
    peak: int
    held: int
    model: int
    elements: int
    checksum: int
    process: float = 0.0


class Figures(NamedTuple):
    """One row: medians of several loads.

    Attributes:
        case: description of the checkpoint.
        way: `transformers`, or the framework that this package loads into.
        file_mib: size of the files, in MiB.
        peak_mib: rise of the resident set at its highest, in MiB.
        held_mib: rise of the resident set after loading, in MiB.
        copies: `peak_mib` over the size of the model in its final dtype.
        seconds: time of loading and of one pass over all parameters.
        ratio: `seconds` over the time of transformers.
        process: time of a whole process, with its imports, in seconds.
        process_ratio: `process` over the time of transformers.
        light: whether the peak is within the aim.
    """

    case: str
    way: str
    file_mib: float
    peak_mib: float
    held_mib: float
    copies: float
    seconds: float
    ratio: float
    process: float
    process_ratio: float
    light: bool


def make(directory: Path, case: Case, size: int) -> None:
    """Write a Llama-like checkpoint of about `size` bytes in float32; three quarters of it are layers."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    width = 64 * max(1, round((size / 2**19) ** 0.5 / 2.3))  # 768 for 400 MiB
    layer = 4 * width * (8 * width + 2 * 64)
    config = transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=width // 64,
        num_key_value_heads=1,
        num_hidden_layers=max(2, round(0.75 * size / layer)),
        vocab_size=max(64, round(0.25 * size / (8 * width))),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(getattr(torch, case.stored))
    nbytes = sum(x.numel() * x.itemsize for x in model.parameters())
    largest = nbytes + MIB if case.shards == 1 else int(1.1 * nbytes / case.shards)
    model.save_pretrained(directory, max_shard_size=largest)


def load(way: str, directory: Path, dtype: str) -> Any:
    """Load a model in one of `WAYS`."""
    if way == REFERENCE:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    from attention_bridge.pretrained import load_pretrained

    return load_pretrained(directory, way, dtype=dtype)


def arrays(way: str, model: Any) -> Iterator[np.ndarray]:
    """The parameters as unsigned whole numbers of their size, without a copy."""
    if way == "jax":
        import jax
        from flax import nnx

        for x in jax.tree.leaves(nnx.state(model, nnx.Param)):
            yield np.asarray(x).view(f"u{x.dtype.itemsize}")
    else:
        import torch

        for x in model.parameters():
            yield x.detach().view({2: torch.uint16, 4: torch.uint32}[x.itemsize]).numpy()


def touch(way: str, model: Any) -> list[tuple[int, int, int]]:
    """Read every parameter once; return the bytes, the elements and the checksum of each."""
    return [(x.nbytes, x.size, int(x.sum(dtype=np.uint64))) for x in arrays(way, model)]


def measure(way: str, tiny: Path, directory: Path, dtype: str) -> Load:
    """Load a model in this process, after a tiny one; reads each parameter once."""
    touch(way, load(way, tiny, dtype))
    gc.collect()
    reset_peak()
    before, start = status("VmRSS"), time.perf_counter()
    model = load(way, directory, dtype)
    found = touch(way, model)
    seconds = time.perf_counter() - start
    nbytes, elements, checksums = (sum(column) for column in zip(*found, strict=True))
    peak, held = status("VmHWM") - before, status("VmRSS") - before
    return Load(seconds, peak, held, nbytes, elements, checksums)


def in_a_process(way: str, tiny: Path, directory: Path, dtype: str) -> Load:
    """Run `measure` in a new process, on the CPU, with the files in the page cache."""
    for path in directory.iterdir():
        path.read_bytes()
    command = [sys.executable, "-m", "benchmarks.loading", "--way", way, "--dtype", dtype]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    subprocess.run([*command, str(directory)], check=True, env=environment)
    process = time.perf_counter() - start
    command += [str(directory), str(tiny)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return Load(*json.loads(done.stdout.splitlines()[-1]))._replace(process=process)


def compare(case: Case, size: int, turns: int, place: Path | None = None) -> list[Figures]:
    """Measure all ways of loading one checkpoint, in turns, each turn in the opposite order.

    Args:
        case: kind of checkpoint.
        size: its size in float32, in bytes.
        turns: number of processes for each way; the figures are medians.
        place: directory for temporary files; None for the usual one.

    Raises:
        RuntimeError: the models that were loaded differ.
    """
    with tempfile.TemporaryDirectory(dir=place) as name:
        tiny, directory = Path(name, "tiny"), Path(name, "source")
        make(tiny, case._replace(shards=1), MIB)
        make(directory, case, size)
        found: dict[str, list[Load]] = {way: [] for way in WAYS}
        for turn in track(range(turns), str(case), console=Console(stderr=True)):
            for way in WAYS[:: 1 if turn % 2 == 0 else -1]:
                found[way].append(in_a_process(way, tiny, directory, case.final))
                check_equal([load for loads in found.values() for load in loads], case)
        file = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    return [figures(case, way, file, loads, found[REFERENCE]) for way, loads in found.items()]


def check_equal(loads: list[Load], case: Case) -> None:
    """Raise unless all loads gave the same parameters."""
    if len({(each.model, each.elements, each.checksum) for each in loads}) != 1:
        raise RuntimeError(f"{case}: the models that were loaded differ: {loads}")


def figures(case: Case, way: str, file: int, loads: list[Load], reference: list[Load]) -> Figures:
    """The row of one way of loading, beside the loads of transformers."""
    model = loads[0].model
    seconds, peak, held = (median(column) for column in list(zip(*loads, strict=True))[:3])
    light = peak <= MOST_COPIES * model + ALLOWANCE
    process = median(each.process for each in loads)
    return Figures(
        str(case),
        way,
        file / MIB,
        peak / MIB,
        held / MIB,
        peak / model,
        seconds,
        seconds / median(each.seconds for each in reference),
        process,
        process / median(each.process for each in reference),
        light,
    )


def table(rows: list[Figures]) -> Table:
    """A table for the terminal."""
    aim = f"peak <= {MOST_COPIES} x model + {ALLOWANCE / 1e6:.0f} MB, both times <= 1.0 x transformers"
    found = Table(title=f"Loading a checkpoint; the aim: {aim}")
    for heading in HEADINGS:
        found.add_column(heading, justify="left" if heading in ("checkpoint", "way", "aim") else "right")
    for row in rows:
        aims = ", ".join(
            "yes" if met else "no" for met in (row.light, row.ratio <= 1, row.process_ratio <= 1)
        )
        found.add_row(
            row.case,
            row.way,
            *(f"{x:.0f}" for x in (row.file_mib, row.peak_mib, row.held_mib)),
            *(f"{x:.2f}" for x in (row.copies, row.seconds, row.ratio, row.process, row.process_ratio)),
            aims,
        )
    return found


def main(
    source: Annotated[Path | None, typer.Argument(hidden=True)] = None,
    tiny: Annotated[Path | None, typer.Argument(hidden=True)] = None,
    size_mib: Annotated[int, typer.Option(help="Size of the checkpoint in float32, in MiB.")] = 400,
    turns: Annotated[int, typer.Option(help="Processes for each way; the figures are medians.")] = 5,
    way: Annotated[str, typer.Option(hidden=True)] = REFERENCE,
    dtype: Annotated[str, typer.Option(hidden=True)] = "float32",
    place: Annotated[
        Path | None, typer.Option(help="Directory to write to; by default that for temporary files.")
    ] = None,
) -> None:
    """Print time and peak memory of loading, beside transformers."""
    if source:
        if tiny:
            print(json.dumps(measure(way, tiny, source, dtype)))
        else:
            touch(way, load(way, source, dtype))
        return
    rows = [row for case in CASES for row in compare(case, size_mib * MIB, turns, place)]
    Console(width=120).print(table(rows))


if __name__ == "__main__":
    typer.run(main)
