"""Attention side by side with its peers on this machine: `python -m benchmarks.attention`.

Each case is computed by ours in both frameworks and by the peers, on the same numbers, turn by turn in one process
with as many threads for each; results are compared first. A time is the median of all rounds.
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

PAGE = """# Attention side by side with its peers

Printed by `python -m benchmarks.attention --markdown` on {machine} with {threads} threads, with {versions}.

Each case is computed by ours in both frameworks and by the peers: the same numbers, turn by turn in one process, as
many threads for each, with a rest of a tenth of a second before each turn, in which the threads of whoever ran before
go to sleep. What is short is run once to wake its threads, and then as often as makes a turn of 20 ms. Results are
compared first, and no time is taken of what differs. A time is the median of all rounds, compilation left out; a ratio
below 1 means that ours takes less. Machines are noisy: ratios to the second digit only.

**{bound}** is what the products and exponentials of a case take at least: on tiles of {rows} × {rows} this
machine does {products:.0f} GFLOP a second in float32 and {exponentials:.1f} thousand million exponentials, the best of
what PyTorch and JAX reach. Pairs of a query and a key that do not see each other are not counted.

## Operations

`dot_product_attention`, length × heads × head_dim, one sequence. `8/2` are eight heads of queries that share two of
keys. A window is a dense mask for `scaled_dot_product_attention`.

{operations}

## Layers

`MultiHeadSelfAttention` and `CausalSelfAttention` with `need_weights=False`; forward in evaluation mode without
gradients, backward with gradients of the input and of all parameters.

{modules}

## Decoding

Milliseconds for each token that a decoder of GPT-2's shape (124 million parameters, float32, random weights, the same
for all) adds to a prompt, the reading of the prompt included; the likeliest token each time, with caches. All write the
same tokens.

{decoding}

## Memory

MiB beyond inputs and outputs, forward and backward: in JAX what XLA plans for temporary results, in PyTorch by how
much a process grows at most during one run.

{memory}
"""


class Group(NamedTuple):
    """One table of the report.

    Attributes:
        name: its place in the page.
        rows: what it says.
    """

    name: str
    rows: list[Row]


def groups(quick: bool, only: str) -> Iterator[Group]:
    """All comparisons of time, one table after the other."""
    for module in (operations, modules, decoding):
        contests: Iterator[Contest] = module.contests(quick, only)
        seconds = QUICK_SECONDS if quick else SECONDS
        found = (rows(contest, seconds) for contest in contests)
        shown = track(found, module.__name__, console=Console(stderr=True), transient=True, total=None)
        yield Group(module.__name__.removeprefix("benchmarks."), list(chain.from_iterable(shown)))


def page(found: list[Group], usages: list[Usage]) -> str:
    """The whole report in Markdown."""
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
    """The times for the terminal."""
    made = Table(
        title=f"Attention side by side ({_versions()})",
        caption=f"{platform.machine()}, {torch.get_num_threads()} threads; ratio: ours over the peer",
    )
    for name in Row._fields:
        made.add_column(name.replace("_", " "), justify="right" if name.endswith(("ms", "ratio")) else "left")
    for group in found:
        for row in group.rows:
            made.add_row(*map(_cell, row))
        made.add_section()
    return made


def _markdown(names: tuple[str, ...], found: list[Row] | list[Usage]) -> str:
    figures = [i for i, name in enumerate(names) if name.endswith(("_ms", "_mib", "_s", "ratio"))]
    headings = (name.replace("_", " ") for name in names)
    return markdown.table(headings, (map(_cell, row) for row in found), figures=figures)


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
    quick: Annotated[bool, typer.Option(help="A few short cases.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print an array of rows instead.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a page in Markdown.")] = False,
    only: Annotated[str, typer.Option(help="Cases whose description has this in it.")] = "",
) -> None:
    """Time attention against its peers; the page says how much memory it needs as well."""
    found = list(groups(quick, only))
    if as_json:
        print(json.dumps([row._asdict() for group in found for row in group.rows], indent=1))
    elif as_markdown:
        print(page(found, list(memory.usages(quick))))
    else:
        Console().print(table(found))


if __name__ == "__main__":
    typer.run(main)
