"""Speed and memory of attention, compared with other libraries on this machine: `python -m benchmarks.attention`.

Both mirrors and the other libraries compute each case on the same numbers, in turns in one process, with the same
number of threads. Results are compared before times are measured. A time is the median of all rounds.
"""

import json
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Annotated, NamedTuple

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from attention_bridge.pages import markdown
from benchmarks import decoding, memory, modules, operations
from benchmarks.machine import ROWS, rates
from benchmarks.memory import Usage
from benchmarks.side_by_side import BOUND, Contest, Row, rows

PACKAGES = ("torch", "jax", "flax", "transformers", "tokamax")
SECONDS, QUICK_SECONDS = 1.5, 0.5

PAGE = """# Speed and memory compared with other libraries

Printed by `python -m benchmarks.attention --markdown` on {machine} with {threads} threads, with {versions}.

Both mirrors and the other libraries ("peers") compute each case on the same numbers, in turns in one process, with the
same number of threads. A pause of 0.1 s before each turn lets the threads of the previous turn go to sleep. A short run
is executed once to wake its threads, and then repeated until a turn takes 20 ms. Results are compared first; a case
whose results differ stops the benchmark. A time is the median of all rounds, without compilation. A ratio below 1 means
that this package is faster. Timings are noisy: only the first two digits of a ratio are meaningful.

**{bound}** is the least time that the matrix products and exponentials of a case can take: on tiles of
{rows} × {rows} this machine reaches {products:.0f} GFLOP/s in float32 and {exponentials:.1f} billion exponentials per
second, the better of PyTorch and JAX. Masked pairs of a query and a key are not counted.

## Operations

`dot_product_attention`, length × heads × head_dim, one sequence. `8/2` means eight query heads that share two key/value
heads. `scaled_dot_product_attention` gets a window as a dense mask.

{operations}

## Layers

`MultiHeadSelfAttention` and `CausalSelfAttention` with `need_weights=False`; forward in evaluation mode without
gradients, backward with gradients of the input and of all parameters.

{modules}

## Decoding

Milliseconds per generated token for a decoder of GPT-2's shape (124 million parameters, float32, the same random
weights for all), including the prefill. Greedy decoding with KV caches; all implementations generate the same tokens.

{decoding}

## Memory

MiB beyond inputs and outputs, forward and backward: in JAX the temporary memory that XLA plans, in PyTorch the peak
growth of the process during one run.

{memory}
"""


class Group(NamedTuple):
    """One table of the report.

    Attributes:
        name: name of the placeholder in the page.
        rows: rows of the table.
    """

    name: str
    rows: list[Row]


def groups(quick: bool, only: str) -> Iterator[Group]:
    """Run all timings; yields one table after the other."""
    for module in (operations, modules, decoding):
        contests: Iterator[Contest] = module.contests(quick, only)
        seconds = QUICK_SECONDS if quick else SECONDS
        found = (rows(contest, seconds) for contest in contests)
        shown = track(found, module.__name__, console=Console(stderr=True), transient=True, total=None)
        yield Group(module.__name__.removeprefix("benchmarks."), list(chain.from_iterable(shown)))


def page(found: list[Group], usages: list[Usage]) -> str:
    """The report in Markdown."""
    return PAGE.format(
        machine=platform.machine(),
        threads=torch.get_num_threads(),
        versions=_versions(),
        bound=BOUND.capitalize(),
        rows=ROWS,
        products=rates().products / 1e9,
        exponentials=rates().exponentials / 1e9,
        memory=_markdown(Usage._fields, usages),
        **{group.name: _markdown(Row._fields, group.rows) for group in found},
    )


def table(found: list[Group]) -> Table:
    """A table of the times for the terminal."""
    made = Table(
        title=f"Speed compared with other libraries ({_versions()})",
        caption=f"{platform.machine()}, {torch.get_num_threads()} threads; ratio: this package's time over the peer's",
    )
    for name in Row._fields:
        made.add_column(_heading(name), justify="right" if name.endswith(("ms", "ratio")) else "left")
    for group in found:
        for row in group.rows:
            made.add_row(*map(_cell, row))
        made.add_section()
    return made


def _markdown(names: tuple[str, ...], found: list[Row] | list[Usage]) -> str:
    figures = [i for i, name in enumerate(names) if name.endswith(("_ms", "_mib", "_s", "ratio"))]
    return markdown.table(map(_heading, names), (map(_cell, row) for row in found), figures=figures)


def _heading(name: str) -> str:
    return name.replace("ours_", "this package, ").replace("_", " ")


def _cell(x: str | float) -> str:
    if isinstance(x, str):
        return x
    return f"{x:.0f}" if x >= 1000 else f"{x:.2f}" if x < 10 else f"{x:.1f}"


def _versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def main(
    quick: Annotated[bool, typer.Option(help="Run a few short cases.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print an array of rows instead.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a page in Markdown.")] = False,
    only: Annotated[str, typer.Option(help="Run only cases whose description contains this text.")] = "",
) -> None:
    """Time attention against other libraries; the Markdown page also compares memory."""
    found = list(groups(quick, only))
    if as_json:
        print(json.dumps([row._asdict() for group in found for row in group.rows], indent=1))
    elif as_markdown:
        print(page(found, list(memory.usages(quick))))
    else:
        Console().print(table(found))


if __name__ == "__main__":
    typer.run(main)
