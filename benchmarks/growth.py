"""How the cost of every mechanism grows with the length, in both frameworks: `python -m benchmarks.growth`.

The smallest instance of each mechanism is called without weights, in evaluation mode, on one sequence of float32.
Operations and memory are counted (see `counting`), so they are the same on every machine; only the time is measured
for comparison. In images of n patches, and in sequences of n tokens, n is twice as large for the second figure.
"""

import math
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import typer
from flax import nnx
from rich.console import Console
from rich.progress import track

from attention_bridge import markdown
from attention_bridge.building import build
from attention_bridge.catalogue import Mechanism, Part, select
from benchmarks.counting import Cost, jax_cost, torch_cost

LENGTHS = (1024, 2304)  # squares, for images
SLOTS = ("SlotAttention",)  # whose queries are not the elements of the sequence
Arrays = dict[str, np.ndarray]


class Growth(NamedTuple):
    """What a mechanism takes in one framework.

    Attributes:
        mechanism: its name.
        paper: how its cost grows by the paper.
        framework: `torch` or `jax`.
        cost: at the longer length.
        operations: the power of the length that the operations grow with.
        memory: likewise the memory.
        milliseconds: of a run at the longer length; None if it was not timed.
    """

    mechanism: str
    paper: str
    framework: str
    cost: Cost
    operations: float
    memory: float
    milliseconds: float | None


def at_length(mechanism: Mechanism, length: int) -> tuple[Part, Arrays]:
    """The smallest instance of a mechanism that takes so many tokens or patches, and one input for it."""
    side = math.isqrt(length)
    sizes = {**mechanism.sizes, "batch": 1, "key": length, "height": side, "width": side}
    if mechanism.name not in SLOTS:
        sizes["query"] = length
    rng = np.random.default_rng(0)
    given = {
        name: rng.standard_normal([sizes[axis] for axis in axes]).astype(np.float32)
        for name, axes in mechanism.inputs.items()
    }
    for name, axes in mechanism.tokens.items():
        given[name] = rng.integers(0, sizes["vocab"], [sizes[axis] for axis in axes]).astype(np.int32)
    for name, x in mechanism.arguments.items():
        given[name] = ARGUMENTS[name](x, mechanism, length)
    return _part(mechanism.module, {"max_len": length, "length": length, "grid_size": (side, side)}), given


def _positions(small: np.ndarray, mechanism: Mechanism, length: int) -> np.ndarray:
    count = np.arange(length, dtype=np.int32).reshape(1, length, *(1 for _ in small.shape[2:]))
    return np.array(np.broadcast_to(count, (1, length, *small.shape[2:])))


def _random_blocks(small: np.ndarray, mechanism: Mechanism, length: int) -> np.ndarray:
    blocks = length // mechanism.module.arguments["block_size"]
    rng = np.random.default_rng(1)
    return rng.integers(0, blocks, (small.shape[0], blocks, small.shape[2])).astype(np.int32)


# The arguments of calls that catalogue entries name, for another length.
ARGUMENTS: dict[str, Callable[[np.ndarray, Mechanism, int], np.ndarray]] = {
    "positions": _positions,
    "global_tokens": lambda small, mechanism, length: np.arange(length)[None] < 2,
    "random_blocks": _random_blocks,
    "previous": lambda small, mechanism, length: np.full((1, length), 1 / length, np.float32),
}


def _part(part: Part, longer: dict[str, Any]) -> Part:
    """A part with the lengths that it has to know; functions of frequencies have lengths of their own."""
    longer = {} if part.name.endswith("_frequencies") else longer
    arguments = {
        name: _part(x, longer) if isinstance(x, Part) else longer.get(name, x)
        for name, x in part.arguments.items()
    }
    return Part(part.name, arguments)


def torch_program(mechanism: Mechanism, length: int) -> Callable[[], Any]:
    """A call in PyTorch."""
    part, given = at_length(mechanism, length)
    module = build(part, "torch_attention", {"device": "cpu"}).eval()
    tensors = {name: torch.from_numpy(x) for name, x in given.items()}
    return lambda: module(**tensors, **mechanism.options(need_weights=False))


def jax_program(mechanism: Mechanism, length: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A call in JAX as a function of parameters and inputs, and these."""
    part, given = at_length(mechanism, length)
    module = build(part, "jax_attention", {"rngs": nnx.Rngs(0)})
    module.eval()
    definition, state = nnx.split(module)

    def program(state: Any, given: dict[str, jax.Array]) -> Any:
        result = nnx.merge(definition, state)(**given, **mechanism.options(need_weights=False))
        return tuple(jax.tree.leaves(result))

    return program, (state, {name: jnp.asarray(x) for name, x in given.items()})


def cost(mechanism: Mechanism, framework: str, length: int) -> Cost:
    """What a call takes at that length."""
    if framework == "torch":
        return torch_cost(torch_program(mechanism, length))
    program, given = jax_program(mechanism, length)
    return jax_cost(program, *given)


def power(short: int, long: int, lengths: tuple[int, int]) -> float:
    """The power of the length that a figure grows with."""
    return math.log(long / short) / math.log(lengths[1] / lengths[0])


def growth(
    mechanism: Mechanism, framework: str, lengths: tuple[int, int] = LENGTHS, *, timed: bool = False
) -> Growth:
    """How the cost of a mechanism grows from one length to another."""
    short, long = (cost(mechanism, framework, length) for length in lengths)
    operations = power(short.operations, long.operations, lengths)
    memory = power(short.peak_bytes, long.peak_bytes, lengths)
    milliseconds = measure(mechanism, framework, lengths[1]) if timed else None
    return Growth(mechanism.name, mechanism.growth, framework, long, operations, memory, milliseconds)


def measure(mechanism: Mechanism, framework: str, length: int, rounds: int = 5) -> float:
    """The median of some runs, in milliseconds; in JAX compiled."""
    if framework == "torch":
        called = torch_program(mechanism, length)

        def run() -> Any:
            with torch.no_grad():
                return called()
    else:
        program, given = jax_program(mechanism, length)
        compiled = jax.jit(program)

        def run() -> Any:
            return jax.block_until_ready(compiled(*given))

    run()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return 1000 * median(found)


PAGE = """# Cost against the length

Printed by `python -m benchmarks.growth`: the smallest instance of every mechanism, called without weights on one
sequence of {short:,} and of {long:,} tokens or patches, in float32. Operations are multiplications of matrix products
and numbers that anything else makes; memory is the most that results in between take together, before anything is
fused. Both are counted and not measured, so they are the same on every machine. A power of 1 is linear in the length
and of 2 quadratic; *paper* is the growth that the mechanism's paper promises, and a test holds every mechanism to it.
With weights, which are a matrix of length × length, everything is quadratic. The time, of one run at {long:,}, is
that of {machine}.

{table}"""


def page(found: list[Growth]) -> str:
    """The figures in Markdown."""
    headings = (
        "mechanism",
        "paper",
        "framework",
        "operations, millions",
        "grow with",
        "memory, MB",
        "grows with",
        "time, ms",
    )
    return PAGE.format(
        short=LENGTHS[0],
        long=LENGTHS[1],
        machine=f"torch {torch.__version__} and jax {jax.__version__} on {torch.get_num_threads()} threads",
        table=markdown.table(headings, map(_cells, found), figures=range(3, len(headings))),
    )


def _cells(each: Growth) -> tuple[str, ...]:
    return (
        each.mechanism,
        each.paper,
        each.framework,
        f"{each.cost.operations / 1e6:,.1f}",
        f"n^{each.operations:.2f}",
        f"{each.cost.peak_bytes / 1e6:,.1f}",
        f"n^{each.memory:.2f}",
        "" if each.milliseconds is None else f"{each.milliseconds:.1f}",
    )


def growths(mechanisms: list[Mechanism], *, timed: bool) -> Iterator[Growth]:
    """Those of all mechanisms in both frameworks."""
    for mechanism in mechanisms:
        for framework in ("torch", "jax"):
            yield growth(mechanism, framework, timed=timed)


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Mechanisms; all by default.")] = None,
    timed: Annotated[bool, typer.Option(help="Measure the time as well.")] = True,
) -> None:
    """Print how the cost of every mechanism grows with the length."""
    chosen = select(names or [])
    lines = growths(chosen, timed=timed)
    console = Console(stderr=True)
    print(page(list(track(lines, "counting", total=2 * len(chosen), console=console, transient=True))))


if __name__ == "__main__":
    typer.run(main)
