"""Time of attention without a softmax against the length: `python -m benchmarks.linear`.

The chunked form of each mechanism runs on one sequence with four heads of 64 features in float32, forward and backward,
in both frameworks. Doubling the length should double the time. For comparison the quadratic form of some mechanisms
runs at the shorter lengths. Each figure is the median of several runs, which alternate between all lengths.
"""

import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from statistics import median
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from attention_bridge.pages import markdown

BATCH, HEADS, DIM = 1, 4, 64
LENGTHS = (1024, 2048, 4096, 8192, 16384)
SHORT_LENGTHS = (1024, 2048, 4096)  # for quadratic forms
QUICK_LENGTHS = (256, 512, 1024)
ROUNDS, QUICK_ROUNDS = 5, 3
DIRECTIONS = ("forward", "forward + backward")

Arrays = dict[str, np.ndarray]


class Form(NamedTuple):
    """A function of `linear` in both mirrors, and its inputs.

    Attributes:
        mechanism: mechanism that the function belongs to.
        function: name of the function.
        further: names of its arguments after query, key and value.
        maps: function that makes queries and keys from normal random numbers.
        is_quadratic: whether the function materialises the matrix of length × length.
    """

    mechanism: str
    function: str
    further: tuple[str, ...] = ()
    maps: Callable[[np.ndarray], np.ndarray] = lambda x: x / DIM**0.5
    is_quadratic: bool = False


FORMS = (
    Form("LinearAttention", "chunked_linear_attention", maps=np.exp),
    Form("PerformerAttention", "chunked_performer"),
    Form("MultiScaleRetention", "chunked_retention", ("log_decay",)),
    Form("GatedLinearAttention", "chunked_gated_linear_attention", ("log_decays",)),
    Form("DeltaNet", "chunked_delta_rule", ("beta",)),
    Form("GatedDeltaNet", "chunked_gated_delta_rule", ("beta", "log_decay")),
    Form("KimiDeltaAttention", "chunked_kimi_delta_rule", ("beta", "log_decays")),
    Form("Mamba2", "chunked_state_space", ("log_decay",)),
    Form("MultiScaleRetention", "parallel_retention", ("log_decay",), is_quadratic=True),
    Form("Mamba2", "parallel_state_space", ("log_decay",), is_quadratic=True),
)


class Timing(NamedTuple):
    """One figure.

    Attributes:
        mechanism: mechanism that the function belongs to.
        form: name of the function.
        framework: `torch` or `jax`.
        direction: `forward` or `forward + backward`.
        length: length of the sequence.
        milliseconds: median time of all runs.
        ratio: time over the time at half the length; None at the shortest length.
    """

    mechanism: str
    form: str
    framework: str
    direction: str
    length: int
    milliseconds: float
    ratio: float | None


def arrays(form: Form, length: int) -> Arrays:
    """The arguments of the form for one sequence, in order."""
    rng = np.random.default_rng(length)
    shape = (BATCH, HEADS, length, DIM)
    made = {
        "query": form.maps(rng.standard_normal(shape)),
        "key": form.maps(rng.standard_normal(shape)),
        "value": rng.standard_normal(shape),
    }
    drawn = {
        "beta": lambda: rng.random(shape[:-1]),
        "log_decay": lambda: -0.05 * rng.exponential(size=shape[:-1]),
        "log_decays": lambda: -0.05 * rng.exponential(size=shape),
    }
    further = {name.removesuffix("s"): drawn[name]() for name in form.further}
    return {name: x.astype(np.float32) for name, x in (made | further).items()}


def run_torch(form: Form, length: int, direction: str) -> Callable[[], Any]:
    """A run in PyTorch, ready for timing."""
    function = getattr(import_module("torch_attention.linear"), form.function)
    tensors = {name: torch.from_numpy(x) for name, x in arrays(form, length).items()}

    def forward() -> Any:
        with torch.no_grad():
            return function(**tensors)

    def both() -> Any:
        output = function(**{name: x.requires_grad_() for name, x in tensors.items()})
        output = output[0] if isinstance(output, tuple) else output
        return torch.autograd.grad(output.sum(), list(tensors.values()))

    return forward if direction == "forward" else both


def run_jax(form: Form, length: int, direction: str) -> Callable[[], Any]:
    """A compiled run in JAX, ready for timing."""
    function = getattr(import_module("jax_attention.linear"), form.function)
    given = {name: jnp.asarray(x) for name, x in arrays(form, length).items()}

    def loss(given: dict[str, jax.Array]) -> jax.Array:
        output = function(**given)
        return (output[0] if isinstance(output, tuple) else output).sum()

    compiled = jax.jit(jax.grad(loss) if direction != "forward" else lambda given: function(**given))
    return lambda: jax.block_until_ready(compiled(given))


FRAMEWORKS = {"torch": run_torch, "jax": run_jax}


def measure(
    form: Form,
    framework: str,
    direction: str,
    lengths: Sequence[int],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Time one form at all lengths in turn, for several rounds."""
    runs = {length: FRAMEWORKS[framework](form, length, direction) for length in lengths}
    for run in runs.values():
        run()  # compiles, and warms up the caches
    seconds = defaultdict(list)
    for _ in range(rounds):
        for length, run in runs.items():
            start = clock()
            run()
            seconds[length].append(clock() - start)
    medians = {length: 1000 * median(times) for length, times in seconds.items()}
    return [
        Timing(
            form.mechanism,
            form.function,
            framework,
            direction,
            length,
            medians[length],
            medians[length] / medians[length // 2] if length // 2 in medians else None,
        )
        for length in lengths
    ]


def benchmark(
    lengths: Sequence[int],
    short_lengths: Sequence[int],
    rounds: int,
    forms: Sequence[Form] = FORMS,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[list[Timing]]:
    """Time every form that the mirrors have; yields one list of timings per line of the table."""
    for form in forms:
        if not hasattr(import_module("torch_attention.linear"), form.function):
            continue
        for direction in DIRECTIONS:
            for framework in FRAMEWORKS:
                chosen = short_lengths if form.is_quadratic else lengths
                yield measure(form, framework, direction, chosen, rounds, clock)


def table(found: Sequence[Sequence[Timing]], lengths: Sequence[int]) -> Table:
    """A table of the timings for the terminal."""
    made = Table(
        title=f"Milliseconds for one sequence of {HEADS} heads of {DIM} features, float32 ({_versions()})",
        caption=f"{platform.machine()}, {torch.get_num_threads()} threads; × is the ratio to half the length",
    )
    for name in ("form", "framework", "direction"):
        made.add_column(name, no_wrap=True)
    for length in lengths:
        made.add_column(f"{length:,}", justify="right", no_wrap=True)
    for row in _cells(found, lengths):
        made.add_row(*row)
    return made


def _cells(found: Sequence[Sequence[Timing]], lengths: Sequence[int]) -> Iterator[tuple[str, ...]]:
    for line in found:
        by_length = {timing.length: timing for timing in line}
        cells = [
            ""
            if (timing := by_length.get(length)) is None
            else f"{timing.milliseconds:.1f}" + ("" if timing.ratio is None else f" ×{timing.ratio:.2f}")
            for length in lengths
        ]
        yield (line[0].form, line[0].framework, line[0].direction, *cells)


def _versions() -> str:
    return ", ".join(f"{package} {version(package)}" for package in ("torch", "jax"))


PAGE = """# Linear attention against the length

Printed by `python -m benchmarks.linear --markdown` on {machine} with {threads} threads, with {versions}: milliseconds
for one sequence with {heads} heads of {dim} features in float32, the median of several runs, which alternate between
all lengths. × is the time over the time at half the length: about 2 for the chunked forms, whose cost is linear in the
length, and about 4 for the parallel forms, which materialise the matrix of length × length.

{table}"""


def page(found: Sequence[Sequence[Timing]], lengths: Sequence[int]) -> str:
    """The page of timings in Markdown."""
    headings = ("form", "framework", "direction", *(f"{length:,}" for length in lengths))
    return PAGE.format(
        machine=platform.machine(),
        threads=torch.get_num_threads(),
        versions=_versions(),
        heads=HEADS,
        dim=DIM,
        table=markdown.table(headings, _cells(found, lengths), figures=range(3, len(headings))),
    )


def main(
    quick: Annotated[bool, typer.Option(help="Use short sequences and few runs.")] = False,
    busy: Annotated[
        bool, typer.Option(help="Measure CPU time with one thread, for a machine that is in use.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array of figures instead.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a page in Markdown.")] = False,
) -> None:
    """Time the chunked forms of linear attention against the length."""
    lengths, rounds = (QUICK_LENGTHS, QUICK_ROUNDS) if quick else (LENGTHS, ROUNDS)
    short_lengths = QUICK_LENGTHS if quick else SHORT_LENGTHS
    total = len(FORMS) * len(DIRECTIONS) * len(FRAMEWORKS)
    if busy:
        torch.set_num_threads(1)
    clock = time.process_time if busy else time.perf_counter
    lines = benchmark(lengths, short_lengths, rounds, clock=clock)
    found = list(track(lines, "timing", total=total, console=Console(stderr=True), transient=True))
    if as_json:
        print(json.dumps([timing._asdict() for line in found for timing in line], indent=1))
    elif as_markdown:
        print(page(found, lengths))
    else:
        Console().print(table(found, lengths))


if __name__ == "__main__":
    typer.run(main)
