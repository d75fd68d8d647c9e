"""Derivatives that each implementation of attention supports: `python -m benchmarks.derivatives` prints the page."""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from attention_bridge.pages.markdown import table
from attention_bridge.parity.measure import tolerances

BATCH, HEADS, KV_HEADS, LENGTH = 2, 4, 2, 8
DEVICES = 2
SPREAD = ("ring", "all_to_all")  # run on several devices
TORCH = ("default", "reference", "blockwise", *SPREAD, "sdpa", "flex")
JAX = ("default", "reference", "blockwise", *SPREAD, "xla", "cudnn", "splash")
ROWS = {"PyTorch": TORCH, "JAX": JAX}
NARROW = {"flex", "xla", "splash"}  # float32 at most
PROBES = {
    "backward": "backward",
    "second": "second order",
    "forward": "forward mode",
    "vmap": "vmap",
    "compiled": "compile / jit",
    "exported": "export",
    "hidden": "NaN in a key masked for some queries",
}
YES, NO, WRONG, NOT_TRIED = "yes", "no", "WRONG", "not tried here: needs a GPU"
NO_INFLUENCE, SPOILS = "no influence on other queries", "NaN reaches other queries"

PAGE = """# Derivatives and transformations of attention

Printed by `python -m benchmarks.derivatives` with {versions}, on the CPU. Each cell is the result of a run of
`dot_product_attention` with that implementation, causal with grouped heads, compared with the reference implementation
in float64: *yes* where both agree within the precision of the dtype, *no* where the call raises an error, with the
reason below. `ring` and `all_to_all` run on {devices} devices, and `splash` runs in interpret mode. `flex`, `xla` and
`splash` compute in float32, the others in float64. `default` is the call without `implementation`. `default` and
`all_to_all` choose by size and device: here SDPA in PyTorch and the reference implementation in JAX, where more than
256 × 256 pairs of a query and a key would select `blockwise`.

A key that is masked for *every* query of its batch element never has an influence, even if it holds NaN. The last
column is about a key and a value that hold NaN and are masked for *some* queries, such as a later key in causal
attention. It shows whether the NaN reaches the outputs of queries that do not attend to that key.

{tables}

`implementation="reference"` supports every derivative. SDPA has no second derivative. `blockwise` and `ring` define
their gradients in JAX with `jax.custom_vjp`, which has no forward mode. A derivative that is not supported raises an
error.

{reasons}
"""


class Given(NamedTuple):
    """Queries, keys and values of a call, and their tangents for forward mode."""

    arrays: list[np.ndarray]
    directions: list[np.ndarray]


@cache
def given(head_dim: int) -> Given:
    """Random arrays, the same in each call."""
    rng = np.random.default_rng(0)
    shapes = [(BATCH, heads, LENGTH, head_dim) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    arrays, directions = ([rng.standard_normal(shape) for shape in shapes] for _ in range(2))
    return Given(arrays, directions)


def head_dim_of(name: str) -> int:
    """The head dimension that an implementation is run with; the splash kernel needs 64."""
    return 64 if name == "splash" else 16


# In PyTorch


def torch_call(name: str) -> Callable[..., Any]:
    """Causal attention with the named implementation."""
    from torch_attention import dot_product_attention

    implementation = None if name == "default" else name
    return lambda query, key, value: dot_product_attention(
        query, key, value, is_causal=True, implementation=implementation
    )


def torch_backward(call: Any, arrays: Any, directions: Any, again: bool = False) -> list[Any]:
    """Output and gradients; with `again` also second derivatives."""
    leaves = [x.detach().requires_grad_() for x in arrays]
    output = call(*leaves)
    first = torch.autograd.grad(output.sin().sum(), leaves, create_graph=again)
    if not again:
        return [output, *first]
    return [output, *first, *torch.autograd.grad(sum(x.cos().sum() for x in first), leaves)]


def torch_second(call: Any, arrays: Any, directions: Any) -> list[Any]:
    """Output, gradients and second derivatives."""
    return torch_backward(call, arrays, directions, again=True)


def torch_forward(call: Any, arrays: Any, directions: Any) -> list[Any]:
    """Output and its directional derivative."""
    return list(torch.func.jvp(call, tuple(arrays), tuple(directions)))


def torch_vmap(call: Any, arrays: Any, directions: Any) -> list[Any]:
    """Outputs of two calls under vmap."""
    both = [torch.stack(pair) for pair in zip(arrays, directions, strict=True)]
    return list(torch.func.vmap(call)(*both).unbind())


def torch_compiled(call: Any, arrays: Any, directions: Any) -> list[Any]:
    """Output and gradients of one compiled graph."""
    torch._dynamo.reset()
    return torch_backward(torch.compile(call, backend="aot_eager", fullgraph=True), arrays, directions)


def torch_exported(call: Any, arrays: Any, directions: Any) -> list[Any]:
    """The output of an exported program."""

    class Called(torch.nn.Module):
        def forward(self, query: Any, key: Any, value: Any) -> Any:
            return call(query, key, value)

    return [torch.export.export(Called(), tuple(arrays)).module()(*arrays)]


def torch_hidden(call: Any, arrays: Any, directions: Any) -> list[Any]:
    """Output of causal attention whose last key and value are NaN."""
    query, *others = (x.clone() for x in arrays)
    last = torch.arange(LENGTH)[:, None] == LENGTH - 1
    return [call(query, *(torch.where(last, torch.nan, x) for x in others))]


TORCH_PROBES: dict[str, Callable[..., list[Any]]] = {
    "backward": torch_backward,
    "second": torch_second,
    "forward": torch_forward,
    "vmap": torch_vmap,
    "compiled": torch_compiled,
    "exported": torch_exported,
    "hidden": torch_hidden,
}


@cache
def expected(probe: str, head_dim: int) -> list[np.ndarray]:
    """Results of the reference implementation in float64."""
    arrays, directions = ([torch.from_numpy(x) for x in each] for each in given(head_dim))
    call = torch_call("reference")
    if probe == "compiled":
        found = torch_backward(call, arrays, directions)
    elif probe in ("hidden", "exported"):
        found = [call(*arrays)]
    else:
        found = TORCH_PROBES[probe](call, arrays, directions)
    return [x.detach().numpy() for x in found]


def judged(probe: str, name: str, found: Iterable[Any]) -> str:
    """The cell for the results of a run."""
    dtype = "float32" if name in NARROW else "float64"
    bound = tolerances(dtype, LENGTH + head_dim_of(name))["gradient"]
    right = expected(probe, head_dim_of(name))
    pairs = [(np.asarray(x, np.float64), y) for x, y in zip(found, right, strict=True)]
    if probe == "hidden":
        pairs = [(x[..., :-1, :], y[..., :-1, :]) for x, y in pairs]
    equal = all(np.isfinite(x).all() and abs(x - y).max() <= bound * abs(y).max() for x, y in pairs)
    if probe == "hidden":
        return NO_INFLUENCE if equal else SPOILS
    return YES if equal else WRONG


def reason_of(error: BaseException) -> str:
    """The first sentence of an error."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    sentence = first.split(". ")[0][:200].rstrip(".")
    return f"{type(error).__name__}: {sentence}" if sentence else type(error).__name__


def torch_row(name: str, probes: Iterable[str] = tuple(PROBES), placed: Any = None) -> dict[str, list[str]]:
    """The cells of an implementation in PyTorch, each with the error text if the call raises."""
    dtype = torch.float32 if name in NARROW else torch.float64
    arrays, directions = ([torch.from_numpy(x).to(dtype) for x in each] for each in given(head_dim_of(name)))
    if placed is not None:
        arrays, directions = ([placed(x) for x in each] for each in (arrays, directions))
    cells = {}
    for probe in probes:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = TORCH_PROBES[probe](torch_call(name), arrays, directions)
            whole = [x.full_tensor() if hasattr(x, "full_tensor") else x for x in found]
            cells[probe] = [judged(probe, name, [x.detach().numpy() for x in whole]), ""]
        except Exception as error:  # unsupported derivatives raise many types
            cells[probe] = [NO, reason_of(error)]
    return cells


def torch_spread(rank: int, path: str, store: str) -> None:
    """Compute the rows that need several processes; the first process writes them to `path`."""
    import torch.distributed as dist

    from torch_attention.sharding import make_mesh, on_mesh, shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=DEVICES)
    mesh = make_mesh({"sequence": DEVICES})
    with on_mesh(mesh):
        rows = {
            name: torch_row(name, placed=lambda x: shard(x, mesh, None, None, "sequence")) for name in SPREAD
        }
    if rank == 0:
        Path(path).write_text(json.dumps(rows))
    dist.destroy_process_group()


# In JAX


def jax_probes() -> dict[str, Callable[..., list[Any]]]:
    """The probes in JAX by name, as `TORCH_PROBES`."""
    import jax
    import jax.numpy as jnp

    def first(call: Any, arrays: Any) -> Any:
        return jax.grad(lambda *x: jnp.sin(call(*x)).sum(), (0, 1, 2))(*arrays)

    def backward(call: Any, arrays: Any, directions: Any) -> list[Any]:
        return [call(*arrays), *first(call, arrays)]

    def second(call: Any, arrays: Any, directions: Any) -> list[Any]:
        again = jax.grad(lambda *x: sum(jnp.cos(g).sum() for g in first(call, x)), (0, 1, 2))
        return [*backward(call, arrays, directions), *again(*arrays)]

    def forward(call: Any, arrays: Any, directions: Any) -> list[Any]:
        return list(jax.jvp(call, tuple(arrays), tuple(directions)))

    def mapped(call: Any, arrays: Any, directions: Any) -> list[Any]:
        return list(jax.vmap(call)(*(jnp.stack(pair) for pair in zip(arrays, directions, strict=True))))

    def exported(call: Any, arrays: Any, directions: Any) -> list[Any]:
        return [jax.export.export(jax.jit(call))(*arrays).call(*arrays)]

    def hidden(call: Any, arrays: Any, directions: Any) -> list[Any]:
        query, *others = arrays
        last = jnp.arange(LENGTH)[:, None] == LENGTH - 1
        return [call(query, *(jnp.where(last, jnp.nan, x) for x in others))]

    def jitted(probe: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        return lambda call, *given: jax.jit(lambda *x: probe(call, *x))(*given)

    found = {"backward": backward, "second": second, "forward": forward, "vmap": mapped, "hidden": hidden}
    return {name: jitted(probe) for name, probe in found.items()} | {
        "compiled": jitted(backward),
        "exported": exported,
    }


def jax_row(name: str, probes: Iterable[str] = tuple(PROBES), mesh: Any = None) -> dict[str, list[str]]:
    """The cells of an implementation in JAX."""
    import jax
    import jax.numpy as jnp

    from jax_attention import dot_product_attention
    from jax_attention.ops.call import checked_call
    from jax_attention.ops.native import splash_attention
    from jax_attention.sharding import on_mesh, shard

    if name == "cudnn":
        return {probe: [NOT_TRIED, ""] for probe in probes}

    def call(query: Any, key: Any, value: Any) -> Any:
        if name == "splash":
            return splash_attention(checked_call(query, key, value, is_causal=True), interpret=True)
        implementation = None if name == "default" else name
        return dot_product_attention(query, key, value, is_causal=True, implementation=implementation)

    cells = {}
    with jax.enable_x64(name not in NARROW), jax.default_matmul_precision("highest"):
        arrays, directions = ([jnp.asarray(x) for x in each] for each in given(head_dim_of(name)))
        if mesh is not None:
            arrays, directions = (
                [shard(x, mesh, None, None, "sequence") for x in each] for each in (arrays, directions)
            )
        for probe in probes:
            try:
                if mesh is None:
                    found = jax_probes()[probe](call, arrays, directions)
                else:
                    with on_mesh(mesh):
                        found = jax_probes()[probe](call, arrays, directions)
                cells[probe] = [judged(probe, name, found), ""]
            except Exception as error:  # unsupported derivatives raise many types
                cells[probe] = [NO, reason_of(error)]
    return cells


def jax_rows() -> dict[str, dict[str, list[str]]]:
    """All rows in JAX; sets up several CPU devices, so it needs its own process."""
    import jax

    jax.config.update("jax_num_cpu_devices", DEVICES)
    from jax_attention.sharding import make_mesh

    mesh = make_mesh({"sequence": DEVICES})
    return {name: jax_row(name, mesh=mesh if name in SPREAD else None) for name in JAX}


# The page


def apart(framework: str) -> dict[str, dict[str, list[str]]]:
    """The rows that need several devices, computed in another process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        subprocess.run([sys.executable, "-m", "benchmarks.derivatives", framework, str(path)], check=True)
        rows: dict[str, dict[str, list[str]]] = json.loads(path.read_text())
        return rows


def measured() -> dict[str, dict[str, dict[str, list[str]]]]:
    """All cells, by framework and implementation."""
    spread = apart("PyTorch")
    ours = {name: spread[name] if name in SPREAD else torch_row(name) for name in TORCH}
    return {"PyTorch": ours, "JAX": apart("JAX")}


def page(found: Mapping[str, Mapping[str, Mapping[str, list[str]]]]) -> str:
    """The page in Markdown."""
    reasons: dict[str, int] = {}
    tables = []
    for framework, rows in found.items():
        lines = []
        for name, cells in rows.items():
            shown = []
            for cell, reason in (cells[probe] for probe in PROBES):
                number = reasons.setdefault(reason, len(reasons) + 1) if reason else 0
                shown.append(f"{cell} ({number})" if reason else cell)
            lines.append((f"`{name}`", *shown))
        tables.append(f"## {framework}\n\n" + table(("implementation", *PROBES.values()), lines))
    return PAGE.format(
        versions=", ".join(f"{package} {version(package)}" for package in ("torch", "jax")),
        devices=DEVICES,
        tables="\n\n".join(tables),
        reasons="\n".join(f"{number}. `{reason}`" for reason, number in reasons.items()),
    ).rstrip()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(page(measured()))
    else:
        framework, path = sys.argv[1:]
        if framework == "JAX":
            Path(path).write_text(json.dumps(jax_rows()))
        else:
            import torch.multiprocessing

            with tempfile.TemporaryDirectory() as folder:
                torch.multiprocessing.start_processes(
                    torch_spread, (path, f"{folder}/store"), nprocs=DEVICES, start_method="fork"
                )
