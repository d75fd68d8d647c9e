"""How time and memory of every mechanism grow with the length, in both frameworks: `python -m benchmarks.growth`.

Operations and memory are counted (see `counting`), in every use of a mechanism that `lengths.uses` names; time and
memory are measured as well, each figure in a process of its own. On Linux.
"""

import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import jax
import torch
import typer
from rich.console import Console
from rich.progress import track

from attention_bridge.catalogue import GROWTHS, Mechanism, select
from attention_bridge.pages import markdown
from benchmarks.lengths import Use, cost, jax_program, torch_program, uses
from benchmarks.process import status

FRAMEWORKS = ("torch", "jax")
LINEAR, QUADRATIC = (
    (1024, 8192),
    (1024, 4096),
)  # measured at; where matrices of length × length are past the caches
COUNTED, COUNTED_SHORT = (1024, 2304), (576, 1024)  # counted at; squares, for images
SLACK = 0.1  # what is left of lower powers between these lengths, and of tiles that are filled up
FIRST_TILE = 0.2  # more of that where XLA's tiles fill a short sequence
BETWEEN = 0.5  # powers of the length above the paper's: nearer to that than to the next
LEAST_SECONDS, LEAST_BYTES = 5e-3, 8 * 2**20  # below, a figure says nothing of growth
CHUNKED = ("linear", "delta", "low_rank")  # many steps, each counted in Python
WARM = 64
ROUNDS, WARM_ROUNDS, ENOUGH_SECONDS = 5, 2, 1.0
SIZES = range(18, 32)  # powers of 2: bytes whose speed is measured


class Measured(NamedTuple):
    """One run.

    Attributes:
        seconds: of the fastest of some runs, after a first one; in JAX compiled.
        peak_bytes: memory at most, beyond parameters, inputs and, in JAX, outputs.
    """

    seconds: float
    peak_bytes: int


class Growth(NamedTuple):
    """What a mechanism takes in one framework.

    Attributes:
        mechanism: its name.
        paper: how its cost grows by the paper, a key of `GROWTHS`.
        framework: `torch` or `jax`.
        operations: by use, the power of the length that counted operations grow with.
        memory: likewise counted memory.
        lengths: those of what is measured.
        forward: measured at both lengths; None if nothing is measured.
        backward: likewise, forward and backward.
        slowness: how many times longer this machine takes for a byte of what is held at the longer length than at the
            shorter one, past its caches; forward and with backward.
    """

    mechanism: str
    paper: str
    framework: str
    operations: dict[str, float]
    memory: dict[str, float]
    lengths: tuple[int, int]
    forward: tuple[Measured, Measured] | None = None
    backward: tuple[Measured, Measured] | None = None
    slowness: tuple[float, float] = (1.0, 1.0)

    @property
    def faster(self) -> list[str]:
        """What grows faster than the paper says, in words."""
        power = GROWTHS[self.paper]
        most = power + SLACK
        if self.framework == "jax" and self.paper == "n²":
            most += FIRST_TILE
        found = [
            f"{what} of {use}"
            for what, powers in (("operations", self.operations), ("memory", self.memory))
            for use, each in powers.items()
            if each > most
        ]
        limit = (self.lengths[1] / self.lengths[0]) ** (power + BETWEEN)
        pairs = ("forward", self.forward), ("backward", self.backward)
        for (name, pair), slowness in zip(pairs, self.slowness, strict=True):
            if pair is None:
                continue
            short, long = pair
            if long.seconds > LEAST_SECONDS and long.seconds > limit * slowness * short.seconds:
                found.append(f"time of {name}")
            if long.peak_bytes > LEAST_BYTES and long.peak_bytes > limit * max(short.peak_bytes, 2**20):
                found.append(f"measured memory of {name}")
        return found


def counted_lengths(mechanism: Mechanism) -> tuple[int, int]:
    """The lengths that a mechanism is counted at: shorter ones where counting takes long and these suffice."""
    is_short = mechanism.growth == "n²" or mechanism.family in CHUNKED
    return COUNTED_SHORT if is_short else COUNTED


def measured_lengths(mechanism: Mechanism) -> tuple[int, int]:
    """The lengths that a mechanism is measured at."""
    return QUADRATIC if mechanism.growth == "n²" else LINEAR


def power(short: int, long: int, lengths: tuple[int, int]) -> float:
    """The power of the length that a figure grows with."""
    return math.log(long / short) / math.log(lengths[1] / lengths[0])


def growth(mechanism: Mechanism, framework: str, chosen: tuple[Use, ...] | None = None) -> Growth:
    """How the counted cost of a mechanism grows, in the chosen uses; in all by default."""
    lengths = counted_lengths(mechanism)
    operations, memory = {}, {}
    for use in uses(mechanism) if chosen is None else chosen:
        short, long = (cost(mechanism, framework, use, length) for length in lengths)
        operations[use.name] = power(short.operations, long.operations, lengths)
        memory[use.name] = power(short.peak_bytes, long.peak_bytes, lengths)
    measured = measured_lengths(mechanism)
    return Growth(mechanism.name, mechanism.growth, framework, operations, memory, measured)


def measure(name: str, framework: str, backward: bool, length: int) -> Measured:
    """Time and memory of a call; for a process that has done nothing else."""
    (mechanism,) = select([name])
    use = uses(mechanism)[int(backward)]
    torch.set_num_threads(1)
    if framework == "torch":
        with torch.no_grad():
            torch_program(mechanism, use, WARM)()  # what is loaded and made once
        called = torch_program(mechanism, use, length)

        def run() -> Any:
            with torch.no_grad():
                return called()

        before = status("VmRSS")
        run()
        peak = status("VmHWM") - before
    else:
        program, given = jax_program(mechanism, use, length)
        compiled = jax.jit(program).lower(*given).compile()
        planned: Any = compiled.memory_analysis()
        peak = planned.temp_size_in_bytes

        def run() -> Any:
            return jax.block_until_ready(compiled(*given))

        run()
    seconds: list[float] = []
    while len(seconds) < ROUNDS and sum(seconds) < ENOUGH_SECONDS:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return Measured(min(seconds), peak)


def seconds_per_byte(framework: str, size: int) -> float:
    """What this machine takes to add one to each number of an array of so many bytes, per byte."""
    torch.set_num_threads(1)
    add: Any = torch.add if framework == "torch" else jax.jit(jax.numpy.add)
    x = torch.ones(size // 4) if framework == "torch" else jax.numpy.ones(size // 4)
    seconds = []
    for _ in range(WARM_ROUNDS + ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready(add(x, 1.0))
        seconds.append(time.perf_counter() - start)
    return min(seconds[WARM_ROUNDS:]) / size


def growth_of(name: str, framework: str) -> Growth:
    """`growth` for another process."""
    (mechanism,) = select([name])
    return growth(mechanism, framework)


def growths(mechanisms: list[Mechanism], *, workers: int) -> Iterator[Growth]:
    """Those of all mechanisms in both frameworks, counted and measured in fresh processes of one thread each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    # Large arrays are kept for the next run: what the system takes to clear fresh pages is no growth of the mechanism.
    os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62)}
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    server = multiprocessing.get_context("forkserver")  # which imports once, and is forked for each figure
    server.set_forkserver_preload(["benchmarks.lengths"])
    with server.Pool(workers, maxtasksperchild=1) as pool:
        speeds = {
            framework: [pool.apply_async(seconds_per_byte, (framework, 2**size)) for size in SIZES]
            for framework in FRAMEWORKS
        }
        lines = []
        for mechanism in mechanisms:
            for framework in FRAMEWORKS:
                figures = [
                    pool.apply_async(measure, (mechanism.name, framework, backward, length))
                    for backward in (False, True)
                    for length in measured_lengths(mechanism)
                ]
                counted = pool.apply_async(growth_of, (mechanism.name, framework))
                lines.append((counted, figures))
        for counted, figures in lines:
            first, second, third, fourth = (each.get() for each in figures)
            found = counted.get()._replace(forward=(first, second), backward=(third, fourth))
            speed = [each.get() for each in speeds[found.framework]]
            slowness = _slowness(speed, first, second), _slowness(speed, third, fourth)
            yield found._replace(slowness=slowness)


def _slowness(speed: list[float], short: Measured, long: Measured) -> float:
    """How many times longer a byte takes among what `long` holds than among what `short` does."""
    at = [round(math.log2(max(each.peak_bytes, 1))) - SIZES[0] for each in (short, long)]
    one, other = (speed[min(max(index, 0), len(speed) - 1)] for index in at)
    return max(1.0, other / one)


PAGE = """# Time and memory against the length

Printed by `python -m benchmarks.growth`. *Paper* is the growth that a mechanism's paper promises; a line that grows
faster is marked in the last column. **{verdict}**

The smallest instance of every mechanism is called with `need_weights=False` (attention weights are a matrix of
length × length) on one sequence of float32.

- *Counted*: the power of the length that multiplications of matrix products, and numbers that anything else makes,
  grow with, and that the memory of intermediate results grows with, before anything is fused. A power of 1 is linear,
  and of 2 quadratic. It is the largest over the uses that a mechanism has: forward, backward, with a padding mask,
  with dropout that is sampled and that is given as a mask, with a bias of positions (`T5Bias`), and causal. A test
  holds every mechanism to it.
- *Measured*: forward, and forward plus backward, on {machine}, one thread, each figure in a
  process of its own: milliseconds at the longer length, and the power of the length that the time grows with from the
  shorter one, which is less than the paper's where a fixed cost is large. Mechanisms whose paper says n² are measured
  at {quadratic}, the others at {linear} (images have the next smaller square of patches). Peak is memory
  beyond parameters and inputs at both lengths, in MB: what the process held at most in PyTorch, what the compiler
  planned in JAX.
- *A byte*: how many times longer this machine takes to add one to a number among as many bytes as the second peak than
  among as many as the first, which no longer fit its caches. A line is marked where what is counted grows faster than
  the paper says, or where time or peak, beside this, are nearer to the next power of the length than to the paper's.

{table}"""


def page(found: list[Growth]) -> str:
    """The figures in Markdown."""
    headings = (
        "mechanism",
        "paper",
        "framework",
        "operations",
        "memory",
        "forward, ms",
        "time",
        "peak, MB",
        "a byte",
        "with backward, ms",
        "time",
        "peak, MB",
        "a byte",
        "faster than its paper",
    )
    faster = sorted({each.mechanism for each in found if each.faster})
    return PAGE.format(
        verdict=f"Marked: {', '.join(faster)}." if faster else "No line is marked.",
        machine=f"torch {torch.__version__} and jax {jax.__version__}",
        quadratic=" and ".join(f"{length:,}" for length in QUADRATIC),
        linear=" and ".join(f"{length:,}" for length in LINEAR),
        table=markdown.table(headings, map(_cells, found), figures=range(3, len(headings) - 1)),
    )


def _cells(each: Growth) -> tuple[str, ...]:
    return (
        each.mechanism,
        each.paper,
        each.framework,
        f"n^{max(each.operations.values()):.2f}",
        f"n^{max(each.memory.values()):.2f}",
        *_measured(each.forward, each.lengths, each.slowness[0]),
        *_measured(each.backward, each.lengths, each.slowness[1]),
        ", ".join(each.faster),
    )


def _measured(
    pair: tuple[Measured, Measured] | None, lengths: tuple[int, int], slowness: float
) -> tuple[str, ...]:
    if pair is None:
        return "", "", "", ""
    short, long = pair
    grown = math.log(long.seconds / short.seconds) / math.log(lengths[1] / lengths[0])
    peaks = " → ".join(f"{each.peak_bytes / 1e6:.1f}" for each in pair)
    return f"{1000 * long.seconds:.1f}", f"n^{grown:.2f}", peaks, f"{slowness:.1f}×"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Mechanisms; all by default.")] = None,
    workers: Annotated[int, typer.Option(help="Processes at once; no more than idle cores.")] = 2,
) -> None:
    """Print how the cost of every mechanism grows with the length."""
    chosen = select(names or [])
    lines = growths(chosen, workers=workers)
    console = Console(stderr=True)
    total = len(FRAMEWORKS) * len(chosen)
    print(page(list(track(lines, "counting and measuring", total=total, console=console, transient=True))))


if __name__ == "__main__":
    typer.run(main)
