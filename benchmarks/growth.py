"""Growth of time and memory of every mechanism with the length, in both frameworks: `python -m benchmarks.growth`.

Operations and memory are counted (see `counting`) in every use of a mechanism that `lengths.uses` lists. Time and
memory are also measured, each figure in its own process. Linux only.
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
)  # lengths of measurements; matrices of length × length exceed the CPU caches
COUNTED, COUNTED_SHORT = (1024, 2304), (576, 1024)  # lengths of counts; squares, for images
SLACK = 0.1  # tolerance of a power: lower-order terms, and padding of tiles
FIRST_TILE = 0.2  # additional tolerance in XLA, whose tiles pad short sequences
BETWEEN = 0.5  # tolerance of a measured power: closer to the paper's power than to the next integer
LEAST_SECONDS, LEAST_BYTES = 5e-3, 8 * 2**20  # smaller figures do not show growth
CHUNKED = ("linear", "delta", "low_rank")  # families with many steps, each counted in Python
WARM = 64
ROUNDS, WARM_ROUNDS, ENOUGH_SECONDS = 5, 2, 1.0
SIZES = range(18, 32)  # exponents of 2: array sizes in bytes for the memory speed


class Measured(NamedTuple):
    """Measured time and memory of a call.

    Attributes:
        seconds: time of the fastest of several runs, after a warm-up; in JAX without compilation.
        peak_bytes: peak memory beyond parameters, inputs and, in JAX, outputs.
    """

    seconds: float
    peak_bytes: int


class Growth(NamedTuple):
    """Growth of the cost of a mechanism in one framework.

    Attributes:
        mechanism: name of the mechanism.
        paper: growth of the cost according to the paper, a key of `GROWTHS`.
        framework: `torch` or `jax`.
        operations: power of the length with which counted operations grow, by use.
        memory: power of the length with which counted memory grows, by use.
        lengths: the two lengths of the measurements.
        forward: measurements of the forward pass at both lengths; None if nothing is measured.
        backward: measurements of forward and backward pass at both lengths; None if nothing is measured.
        slowness: this machine's time per byte at the peak memory of the longer length over its time per byte at the
            peak memory of the shorter length, because larger arrays exceed the caches; for forward, and for forward and
            backward.
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
        """Descriptions of the figures that grow faster than the paper states."""
        power = GROWTHS[self.paper]
        most = power + SLACK
        if self.framework == "jax" and self.paper == "n²":
            most += FIRST_TILE
        found = [
            f"{kind} of {use}"
            for kind, powers in (("operations", self.operations), ("memory", self.memory))
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
    """The two lengths at which a mechanism is counted; shorter ones for quadratic and chunked mechanisms."""
    is_short = mechanism.growth == "n²" or mechanism.family in CHUNKED
    return COUNTED_SHORT if is_short else COUNTED


def measured_lengths(mechanism: Mechanism) -> tuple[int, int]:
    """The two lengths at which a mechanism is measured."""
    return QUADRATIC if mechanism.growth == "n²" else LINEAR


def power(short: int, long: int, lengths: tuple[int, int]) -> float:
    """The power of the length with which a figure grows."""
    return math.log(long / short) / math.log(lengths[1] / lengths[0])


def growth(mechanism: Mechanism, framework: str, chosen: tuple[Use, ...] | None = None) -> Growth:
    """The growth of the counted cost of a mechanism in the chosen uses; None for all uses."""
    lengths = counted_lengths(mechanism)
    operations, memory = {}, {}
    for use in uses(mechanism) if chosen is None else chosen:
        short, long = (cost(mechanism, framework, use, length) for length in lengths)
        operations[use.name] = power(short.operations, long.operations, lengths)
        memory[use.name] = power(short.peak_bytes, long.peak_bytes, lengths)
    measured = measured_lengths(mechanism)
    return Growth(mechanism.name, mechanism.growth, framework, operations, memory, measured)


def measure(name: str, framework: str, backward: bool, length: int) -> Measured:
    """Measure time and memory of a call; run it in a fresh process."""
    (mechanism,) = select([name])
    use = uses(mechanism)[int(backward)]
    torch.set_num_threads(1)
    if framework == "torch":
        with torch.no_grad():
            torch_program(mechanism, use, WARM)()  # loads libraries and allocates buffers once
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
    """The time per byte that this machine needs to add one to each element of an array of `size` bytes."""
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
    """`growth` of a mechanism by name, for a worker process."""
    (mechanism,) = select([name])
    return growth(mechanism, framework)


def growths(mechanisms: list[Mechanism], *, workers: int) -> Iterator[Growth]:
    """Yield the growth of all mechanisms in both frameworks, from fresh single-threaded processes."""
    os.environ["OMP_NUM_THREADS"] = "1"
    # Keep large arrays for the next run: the time to clear fresh memory pages is not part of the mechanism.
    os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62)}
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    server = multiprocessing.get_context("forkserver")  # imports once, forks for each figure
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
    """The ratio of the times per byte at the peak memory of `long` and of `short`, at least 1."""
    at = [round(math.log2(max(each.peak_bytes, 1))) - SIZES[0] for each in (short, long)]
    one, other = (speed[min(max(index, 0), len(speed) - 1)] for index in at)
    return max(1.0, other / one)


PAGE = """# Time and memory against the length

Printed by `python -m benchmarks.growth`. *Paper* is the growth that the paper of a mechanism states; the last column
marks lines that grow faster. **{verdict}**

The smallest instance of every mechanism is called with `need_weights=False` (attention weights are a matrix of
length × length) on one sequence in float32.

- *Counted*: *operations* are the multiplications of matrix products and the output elements of all other operations;
  *memory* is the memory of intermediate results without fusion. Both columns show the power of the length with which
  the figure grows: 1 is linear, 2 is quadratic. The power is the largest over all uses of a mechanism: forward,
  backward, with a padding mask, with sampled dropout and with a given dropout mask, with a position bias (`T5Bias`),
  and causal. A test checks the power of every mechanism against its paper.
- *Measured*: forward, and forward plus backward, on {machine}, with one thread, each figure in
  its own process. The columns show milliseconds at the longer length, and the power of the length with which the time
  grows from the shorter length; it is below the paper's power where a fixed cost is large. Mechanisms whose paper
  states n² are measured at {quadratic}, the others at {linear} (images have the next smaller square of patches).
  *Peak* is the peak memory beyond parameters and inputs at both lengths, in MB: of the process in PyTorch, as planned
  by the compiler in JAX.
- *A byte*: the ratio of this machine's time per byte in an array as large as the second peak to its time per byte in an
  array as large as the first peak. It exceeds 1 where the larger array no longer fits into the caches. A line is marked
  if a counted figure grows faster than the paper states, or if time or peak, corrected by this ratio, are closer to the
  next power of the length than to the paper's.

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
        "faster than the paper",
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
    names: Annotated[list[str] | None, typer.Argument(help="Names of mechanisms; all by default.")] = None,
    workers: Annotated[int, typer.Option(help="Number of parallel processes; at most the idle cores.")] = 2,
) -> None:
    """Print the growth of the cost of every mechanism with the length."""
    chosen = select(names or [])
    lines = growths(chosen, workers=workers)
    console = Console(stderr=True)
    total = len(FRAMEWORKS) * len(chosen)
    print(page(list(track(lines, "counting and measuring", total=total, console=console, transient=True))))


if __name__ == "__main__":
    typer.run(main)
