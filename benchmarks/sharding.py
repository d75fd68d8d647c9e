"""Memory and collectives of sharded programs: `python -m benchmarks.sharding` prints `docs/sharding.md`.

Programs are compiled for TPUs and not run.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version

from jax.sharding import Mesh
from rich.console import Console
from rich.progress import track

from attention_bridge.accelerators.compilation import Program
from attention_bridge.accelerators.many_chips import (
    Shared,
    attention_on,
    compile_on,
    decoder_on,
    described_mesh,
)
from attention_bridge.pages.markdown import table
from jax_attention.models import LayerSpec, ModelSpec, Part
from jax_attention.sharding import DATA, MODEL, SEQUENCE, TABLE

TOPOLOGIES = {1: "v5e:2x2", 4: "v5e:2x2", 16: "v5e:4x4", 64: "v5p:4x4x4"}
SQUARES = {1: (1, 1), 4: (2, 2), 16: (4, 4), 64: (16, 4)}
CUBES = {1: (1, 1, 1), 4: (1, 2, 2), 16: (2, 2, 4), 64: (4, 4, 4)}
Sizes = Callable[[int], Mapping[str, int] | None]  # from the number of chips to the axis sizes of a mesh
HEADS, HEAD_DIM = 16, 64
POSITION = Part("RotaryEmbedding", {"head_dim": HEAD_DIM})
SIZES = {"num_heads": HEADS, "num_kv_heads": HEADS, "head_dim": HEAD_DIM, "bias": False}
ATTENTION = Part("GroupedQueryAttention", {**SIZES, "position": POSITION})
CONFIG = ModelSpec(1024, 512, (LayerSpec(ATTENTION, Part("GatedFeedForward", {"ffn_dim": 2048})),))
TOKENS = (16, 512)
SHAPE = (1, 16, 8192, 128)

PAGE = """# More than one device

{intro}

## Sharding of parameters

`shard_model` chooses the sharding of a parameter by the end of its path. The table is in `jax_attention/sharding.py`,
and with PyTorch's names in `torch_attention/sharding.py`:

{table}

All other parameters are replicated. Heads are never split: an axis that does not divide the number of heads shards
nothing, and the result is the same.

## Memory and collectives

From here on printed by `python -m benchmarks.sharding` with {versions}. The programs are **compiled, not run**,
for descriptions of chips: 1 and 4 chips of v5e, 16 chips of `v5e:4x4`, and 64 chips of `v5p:4x4x4`.

The first table has the bytes on each chip: arguments + temporary main memory. Temporary data that fit into on-chip
memory are not counted; this memory has different sizes on v5p and v5e. The decoder has one layer of {heads} heads, and
its program computes the gradients of all parameters for {texts} texts of {length} tokens. Attention is causal, in
bfloat16, on one sequence of {long:,} positions with {queries} heads of {head_dim} features; its program computes the
gradients of queries, keys and values. A cell is empty where there are more chips than parts to shard.

{memory}

The number of collective operations in the program of one of 16 chips; operations in a loop count once:

{collectives}

In ring attention a chip computes the scores of its own queries with the keys of one other chip at a time, forward and
backward. The memory of these scores falls with the square of the number of chips; on few chips it exceeds the memory of
the single-device kernel. With `all_to_all` each chip runs that kernel, so it is the better choice where there are
enough heads.
"""
INTRO = """A mesh with the axes `data`, `model` and `sequence` shards the batch, the heads (and the hidden features of
feed-forward networks) and the sequence. Annotate the model once; its code and its results are the same as on a single
device:

```python
mesh = make_mesh({"data": 2, "model": 2, "sequence": 2})
shard_model(model, mesh)
with on_mesh(mesh):
    output = model(shard(tokens, mesh, "data", "sequence")).output
```

The XLA compiler (JAX) or DTensor (PyTorch) inserts the collectives, except in attention. There each device attends with
its own batch elements and heads. If the sequence is sharded, attention uses one of two schemes; `implementation=`
chooses one by name:

- `"ring"` (Liu et al. 2023), the default: queries stay on their device, keys and values pass around a ring of devices,
  and each device accumulates an online softmax. The backward pass sends them around the ring again, with their
  gradients.
- `"all_to_all"` (Jacobs et al. 2023, DeepSpeed Ulysses): an all-to-all exchanges sequence shards for head shards. Each
  device attends over the whole sequence with some of the heads, and a second all-to-all restores the sequence shards.

Masks, biases, windows, offsets, softcap, sinks, dropout masks and grouped heads work as on a single device. Fully
masked rows are exactly zero, and gradients are complete. `parity_tests/accelerators/test_sharding.py`
compares models and calls with a single device: on 8 virtual devices in JAX, in 4 processes in PyTorch.

Compute gradients within `on_mesh` as well. In PyTorch it works around three bugs of DTensor (PyTorch 2.13), only inside
its context:

- DTensor keeps the strides of an array that it redistributes, but collectives return contiguous parts. A `reshape` or
  its gradient then fails with "view size is not compatible" if a transposed array was summed or gathered, as in gated
  attention. Within `on_mesh` a `reshape` copies the part; where shards forbid a view, it gathers them.
- `linalg.solve_triangular`, which `DeltaNet` and related layers call, combines a whole matrix with a part of the
  right-hand sides. Within `on_mesh` both are sharded in the same way.
- `cumsum`, `cumprod` and `logcumsumexp` sum each part separately if the sharded axis is given as a negative number, and
  `unbind` of a sharded axis fails. Within `on_mesh` the axis is gathered.

`TestOperators` in that file fails when a release of PyTorch has fixed them."""


def decoder(mesh: Mesh) -> Program:
    """The program of the decoder in the tables."""
    return decoder_on(mesh, CONFIG, TOKENS)


def attention(mesh: Mesh, scheme: str | None) -> Program:
    """The program of attention in the tables; one chip uses no scheme."""
    return attention_on(mesh, SHAPE, scheme if mesh.size > 1 else None)


def along(axis: str, most: int = 16) -> Sizes:
    """All chips along one axis, up to `most` chips; None beyond."""
    return lambda chips: {axis: chips} if chips <= most else None


ROWS: dict[str, tuple[Callable[[Mesh], Program], Sizes]] = {
    "decoder, `data`": (decoder, along(DATA)),
    "decoder, `model`": (decoder, along(MODEL)),
    "decoder, `sequence`": (decoder, along(SEQUENCE)),
    "decoder, `data` and `model`": (
        decoder,
        lambda chips: dict(zip((DATA, MODEL), SQUARES[chips], strict=True)),
    ),
    "decoder, all three": (
        decoder,
        lambda chips: dict(zip((DATA, MODEL, SEQUENCE), CUBES[chips], strict=True)),
    ),
    "attention, `ring`": (partial(attention, scheme="ring"), along(SEQUENCE, most=64)),
    "attention, `all_to_all`": (partial(attention, scheme="all_to_all"), along(SEQUENCE)),
    "attention, heads": (partial(attention, scheme=None), along(MODEL)),
}


def compiled() -> dict[tuple[str, int], Shared]:
    """Compile every row for every number of chips."""
    found = {}
    cells = [(name, chips) for name, (_, sizes) in ROWS.items() for chips in TOPOLOGIES if sizes(chips)]
    for name, chips in track(cells, "compiling", console=Console(stderr=True), transient=True):
        make, sizes = ROWS[name]
        alone = next((each for (other, _), each in found.items() if ROWS[other][0] is make), None)
        if chips == 1 and alone is not None:  # with one chip the axis does not matter
            found[name, chips] = alone
            continue
        mesh = described_mesh(TOPOLOGIES[chips], sizes(chips) or {})
        found[name, chips] = compile_on(make(mesh), mesh)
    return found


def page() -> str:
    """The page in Markdown."""
    found = compiled()
    kinds = sorted({kind for each in found.values() for kind in each.collectives})
    memory = ((name, *(_bytes(found.get((name, chips))) for chips in TOPOLOGIES)) for name in ROWS)
    counts = ((name, *(str(found[name, 16].collectives.get(kind, "")) for kind in kinds)) for name in ROWS)
    return PAGE.format(
        intro=INTRO,
        table=table(
            ("path ends in", "sharding by `model`"),
            ((f"`{_end(end)}`", f"`{spec}`") for end, spec in TABLE),
            figures=None,
        ),
        versions=", ".join(f"{package} {version(package)}" for package in ("jax", "libtpu")),
        heads=HEADS,
        texts=TOKENS[0],
        length=TOKENS[1],
        long=SHAPE[2],
        queries=SHAPE[1],
        head_dim=SHAPE[3],
        memory=table(
            ("bytes on each chip", "1 chip", *map("{} chips".format, [*TOPOLOGIES][1:])), memory, figures=None
        ),
        collectives=table(("", *kinds), counts, figures=None),
    )


def _end(pattern: str) -> str:
    return pattern.replace("\\b", "").replace("\\", "").replace("|", ", ").replace("(", "{").replace(")", "}")


def _bytes(found: Shared | None) -> str:
    return "" if found is None else f"{found.arguments:,} + {found.temporary:,}"


if __name__ == "__main__":
    print(page(), end="")
