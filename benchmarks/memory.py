"""Memory of attention beyond its inputs and outputs, forward and backward: `python -m benchmarks.memory`.

In JAX the figure is the temporary memory of the compiled program. In PyTorch a new process per figure runs once; the
figure is its high-water mark after the run minus its memory before the run. Linux only.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import torch
import typer

import jax_attention.ops
import torch_attention.ops
from benchmarks.operations import Case, jax_function, jax_nn, jax_run, numbers, sdpa, torch_run
from benchmarks.process import status

MIB = 2**20
LENGTHS = (2048, 8192, 32768)
QUICK_LENGTHS = (512, 1024)


class Usage(NamedTuple):
    """One comparison.

    Attributes:
        case: description of the case.
        framework: `torch` or `jax`.
        ours_mib: memory of this package beyond inputs and outputs, in MiB.
        ours_s: time of one run of this package, in seconds.
        peer: name of the other implementation.
        peer_mib: memory of the other implementation, in MiB.
    """

    case: str
    framework: str
    ours_mib: float
    ours_s: float
    peer: str
    peer_mib: float


def usages(quick: bool) -> Iterator[Usage]:
    """Yield the memory of causal attention at several lengths, in both frameworks."""
    for length in QUICK_LENGTHS if quick else LENGTHS:
        case = Case(length, is_causal=True, backward=True)
        ours, seconds = in_a_process(length, "mirror")
        theirs, _ = in_a_process(length, "sdpa")
        yield Usage(str(case), "torch", ours, seconds, "torch scaled_dot_product_attention", theirs)
        attend = partial(jax_attention.ops.dot_product_attention, is_causal=True)
        yield Usage(
            str(case),
            "jax",
            compiled_mib(case, attend),
            seconds_of(jax_run(case, attend)),
            "jax.nn.dot_product_attention",
            compiled_mib(case, jax_nn(case)),
        )


def compiled_mib(case: Case, attend: Callable[..., jax.Array]) -> float:
    """The memory that XLA plans for temporary results, in MiB."""
    given = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in numbers(case)]
    analysis = jax.jit(jax_function(case, attend)).lower(*given).compile().memory_analysis()
    return analysis.temp_size_in_bytes / MIB


def in_a_process(length: int, whose: str) -> tuple[float, float]:
    """Run `torch_mib` in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", str(length), whose]
    mib, seconds = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return mib, seconds


def torch_mib(length: int, whose: str) -> tuple[float, float]:
    """Measure one run in this process: peak memory beyond inputs and outputs, in MiB, and seconds."""
    case = Case(length, is_causal=True, backward=True)
    ours = partial(torch_attention.ops.dot_product_attention, is_causal=True)
    torch_run(Case(64, is_causal=True, backward=True), ours)()  # creates threads and buffers once
    run = torch_run(case, ours if whose == "mirror" else sdpa(case))
    before = status("VmRSS")
    start = time.perf_counter()
    results = run()
    seconds = time.perf_counter() - start
    returned = sum(x.nbytes for x in results)
    return (status("VmHWM") - before - returned) / MIB, seconds


def seconds_of(run: Callable[[], Any]) -> float:
    """The time of the second run, in seconds."""
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(
    length: Annotated[int, typer.Argument(help="Number of queries and of keys.")],
    whose: Annotated[
        str, typer.Argument(help="`mirror` for `torch_attention`, or `sdpa` for PyTorch's own kernel.")
    ] = "mirror",
) -> None:
    """Print MiB and seconds of one causal run in PyTorch, forward and backward, as a JSON array."""
    torch.manual_seed(0)
    print(json.dumps(torch_mib(length, whose)))


if __name__ == "__main__":
    typer.run(main)
