"""How much memory attention needs beyond its inputs and outputs, forward and backward: `python -m benchmarks.memory`.

JAX says so itself of what it compiled. What PyTorch takes is seen from outside: a process of its own for each
figure computes once, and what it holds before is taken from its high-water mark after. On Linux.
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
        case: what was computed.
        framework: `torch` or `jax`.
        ours_mib: what ours took beyond inputs and outputs, in MiB.
        ours_s: how long one run took, in seconds.
        peer: what it is compared with.
        peer_mib: what that took.
    """

    case: str
    framework: str
    ours_mib: float
    ours_s: float
    peer: str
    peer_mib: float


def usages(quick: bool) -> Iterator[Usage]:
    """Causal attention at growing lengths, in both frameworks."""
    for length in QUICK_LENGTHS if quick else LENGTHS:
        case = Case(length, is_causal=True, backward=True)
        ours, seconds = in_a_process(length, "ours")
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
    """What XLA plans to take for temporary results."""
    given = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in numbers(case)]
    analysis = jax.jit(jax_function(case, attend)).lower(*given).compile().memory_analysis()
    return analysis.temp_size_in_bytes / MIB


def in_a_process(length: int, whose: str) -> tuple[float, float]:
    """The figures of `torch_mib` from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", str(length), whose]
    mib, seconds = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return mib, seconds


def torch_mib(length: int, whose: str) -> tuple[float, float]:
    """How many MiB this process holds at most during one run, beyond what it holds before and returns; and seconds."""
    case = Case(length, is_causal=True, backward=True)
    ours = partial(torch_attention.ops.dot_product_attention, is_causal=True)
    torch_run(Case(64, is_causal=True, backward=True), ours)()  # threads and buffers that are made once
    run = torch_run(case, ours if whose == "ours" else sdpa(case))
    before = status("VmRSS")
    start = time.perf_counter()
    results = run()
    seconds = time.perf_counter() - start
    returned = sum(x.nbytes for x in results)
    return (status("VmHWM") - before - returned) / MIB, seconds


def seconds_of(run: Callable[[], Any]) -> float:
    """How long a run takes after the first."""
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(
    length: Annotated[int, typer.Argument(help="Of queries and keys.")],
    whose: Annotated[str, typer.Argument(help="`ours`, or `sdpa` for PyTorch's own kernel.")] = "ours",
) -> None:
    """Print MiB and seconds of one causal run in PyTorch, forward and backward, as an array."""
    torch.manual_seed(0)
    print(json.dumps(torch_mib(length, whose)))


if __name__ == "__main__":
    typer.run(main)
