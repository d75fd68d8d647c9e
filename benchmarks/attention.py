"""Attention side by side with its peers on this machine: `python -m benchmarks.attention`.

Each case is computed by ours in both frameworks and by the peers, on the same numbers, turn by turn in one process
with as many threads for each; results are compared first. A time is the median of all rounds.
"""

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import jax_attention.ops
import torch_attention.ops
from attention_bridge.weights.leaves import to_torch
from benchmarks.side_by_side import Row, assert_equal, medians

TOLERANCE = {"float32": 2e-5, "bfloat16": 4e-2}


@dataclass(frozen=True)
class Case:
    """What is computed: one batch element in float32, forward, if nothing else is said.

    Attributes:
        length: of queries and keys.
        heads, kv_heads, head_dim, is_causal, window, dtype: as in `dot_product_attention`.
        backward: whether gradients of queries, keys and values are computed as well.
    """

    length: int
    heads: int = 8
    kv_heads: int = 8
    head_dim: int = 64
    is_causal: bool = False
    window: int | None = None
    dtype: str = "float32"
    backward: bool = False

    def __str__(self) -> str:
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        kind = "causal" if self.is_causal else "all keys"
        kind = kind if self.window is None else f"window {self.window}"
        direction = "forward + backward" if self.backward else "forward"
        return f"{self.length} × {heads} × {self.head_dim}, {kind}, {self.dtype}, {direction}"


def cases(quick: bool) -> list[Case]:
    """Those of the report; the quick ones are a few short ones."""
    lengths = (128, 1000) if quick else (128, 256, 512, 1000, 1024, 2048, 3001, 4096, 8192)
    both = (False, True)
    found = [Case(n, is_causal=c, backward=b) for n in lengths for c in both for b in both]
    if not quick:
        found += [Case(n, head_dim=80, is_causal=True, backward=b) for n in (1024, 4096) for b in both]
        found += [Case(n, kv_heads=2, is_causal=True, backward=b) for n in (1024, 4096) for b in both]
        found += [Case(n, is_causal=True, dtype="bfloat16", backward=b) for n in (1024, 4096) for b in both]
    windows = (1000,) if quick else (2048, 8192)
    return found + [Case(n, is_causal=True, window=256, backward=b) for n in windows for b in both]


def numbers(case: Case) -> list[np.ndarray]:
    """Queries, keys and values, normal."""
    rng = np.random.default_rng(case.length)
    shapes = [(1, heads, case.length, case.head_dim) for heads in (case.heads, case.kv_heads, case.kv_heads)]
    return [rng.standard_normal(shape).astype(getattr(ml_dtypes, case.dtype, case.dtype)) for shape in shapes]


def torch_run(case: Case, attend: Callable[..., torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """A run in PyTorch, ready to be timed."""
    given = [to_torch(x) for x in numbers(case)]

    def forward() -> list[torch.Tensor]:
        with torch.no_grad():
            return [attend(*given)]

    def both() -> list[torch.Tensor]:
        leaves = [x.requires_grad_() for x in given]
        output = attend(*leaves)
        return [output.detach(), *torch.autograd.grad(output.sum(), leaves)]

    return both if case.backward else forward


def jax_run(case: Case, attend: Callable[..., jax.Array]) -> Callable[[], list[jax.Array]]:
    """A compiled run in JAX, ready to be timed."""
    given = [jnp.asarray(x) for x in numbers(case)]

    def total(*given: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = attend(*given)
        return output.astype(jnp.float32).sum(), output

    def both(*given: jax.Array) -> list[jax.Array]:
        gradients, output = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(*given)
        return [output, *gradients]

    run = jax.jit(both if case.backward else lambda *given: [attend(*given)])
    return lambda: jax.block_until_ready(run(*given))


def sdpa(case: Case) -> Callable[..., torch.Tensor]:
    """PyTorch's fused kernel, with a dense mask where there is a window."""
    grouped = case.heads != case.kv_heads
    if case.window is None:
        return partial(F.scaled_dot_product_attention, is_causal=case.is_causal, enable_gqa=grouped)
    i = torch.arange(case.length)
    mask = (i <= i[:, None]) & (i > i[:, None] - case.window)
    return partial(F.scaled_dot_product_attention, attn_mask=mask, enable_gqa=grouped)


def jax_nn(case: Case) -> Callable[..., jax.Array]:
    """JAX's own function."""
    window = None if case.window is None else (case.window - 1, 0)

    def attend(*given: jax.Array) -> jax.Array:
        swapped = (jnp.swapaxes(x, 1, 2) for x in given)
        output = jax.nn.dot_product_attention(*swapped, is_causal=case.is_causal, local_window_size=window)
        return jnp.swapaxes(output, 1, 2)

    return attend


def sides(case: Case) -> dict[str, Callable[[], Any]]:
    """Ours and the peers, by name."""
    options = {"is_causal": case.is_causal, "window": case.window}
    return {
        "torch": torch_run(case, partial(torch_attention.ops.dot_product_attention, **options)),
        "jax": jax_run(case, partial(jax_attention.ops.dot_product_attention, **options)),
        "torch scaled_dot_product_attention": torch_run(case, sdpa(case)),
        "jax.nn.dot_product_attention": jax_run(case, jax_nn(case)),
    }


def compare(case: Case, seconds: float) -> Iterator[Row]:
    """Check that all compute the same, then time them in turns."""
    runs = sides(case)
    results = {
        name: [np.asarray(x.float() if isinstance(x, torch.Tensor) else x, np.float64) for x in run()]
        for name, run in runs.items()
    }
    assert_equal(results, TOLERANCE[case.dtype])
    found = medians(runs, seconds)
    ours, peers = ("torch", "jax"), [name for name in runs if name not in ("torch", "jax")]
    for framework in ours:
        for peer in peers:
            if framework == "torch" and peer.startswith("jax"):
                continue
            yield Row(
                str(case), framework, found[framework], peer, found[peer], found[framework] / found[peer]
            )


def table(rows: list[Row]) -> Table:
    """The rows for the terminal."""
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "jax"))
    made = Table(
        title=f"Attention side by side: length × heads × head_dim ({versions})",
        caption=f"{platform.machine()}, {torch.get_num_threads()} threads; ratio: ours over the peer",
    )
    for name in Row._fields:
        made.add_column(name.replace("_", " "), justify="right" if name.endswith(("ms", "ratio")) else "left")
    for row in rows:
        made.add_row(*(f"{x:.2f}" if isinstance(x, float) else x for x in row))
    return made


def main(
    quick: Annotated[bool, typer.Option(help="A few short cases.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print an array of rows instead.")] = False,
    only: Annotated[str, typer.Option(help="Cases whose description has this in it.")] = "",
) -> None:
    """Time attention against its peers."""
    chosen = [case for case in cases(quick) if only in str(case)]
    rows = [
        row
        for case in track(chosen, "timing", console=Console(stderr=True), transient=True)
        for row in compare(case, 0.5 if quick else 3.0)
    ]
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
    else:
        Console().print(table(rows))


if __name__ == "__main__":
    typer.run(main)
