"""What many chips must hold and say: `python -m benchmarks.sharding` prints `docs/sharding.md`. Nothing is run."""

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
Sizes = Callable[[int], Mapping[str, int] | None]  # of the axes of a mesh, by the number of chips
HEADS, HEAD_DIM = 16, 64
POSITION = Part("RotaryEmbedding", {"head_dim": HEAD_DIM})
SIZES = {"num_heads": HEADS, "num_kv_heads": HEADS, "head_dim": HEAD_DIM, "bias": False}
ATTENTION = Part("GroupedQueryAttention", {**SIZES, "position": POSITION})
CONFIG = ModelSpec(1024, 512, (LayerSpec(ATTENTION, Part("GatedFeedForward", {"ffn_dim": 2048})),))
TOKENS = (16, 512)
SHAPE = (1, 16, 8192, 128)

PAGE = """# More than one device

{intro}

## What each device holds

`shard_model` goes by the ends of the parameters' paths, in `jax_attention/sharding.py` and, with the same lines in
PyTorch's words, in `torch_attention/sharding.py`:

{table}

Everything else every device has as a whole. Heads stay whole: where an axis does not divide them, it shares out
nothing, and the result is the same.

## What they say to each other

From here on printed by `python -m benchmarks.sharding` with {versions}. **Compiled, not run**, for
chips that are only described: 1 and 4 of v5e, 16 of them as `v5e:4x4`, and 64 of v5p as `v5p:4x4x4`.

Bytes on each chip: arguments + temporary main memory, in which what fits into the small memory beside the chip's units
is not counted; a v5p has other sizes there than a v5e. The decoder has one layer of {heads} heads, reads {texts} texts
of {length} tokens, and is asked for the gradients of all its parameters; attention is causal, in bfloat16, on one
sequence of {long:,} places with {queries} heads of {head_dim} features, and is asked for all three gradients. Nothing
stands where there is too little to share out.

{memory}

What stands in the program of one of 16 chips, each as often as it is written there, in a loop once:

{collectives}

In a ring a chip makes all scores of its own queries with the keys of one other chip at a time, forward and backward:
they fall with the square of the number of chips, and on few chips are more than one device's kernel needs. With
`all_to_all` each chip runs that kernel: it is the better choice where there are heads enough.
"""
INTRO = """With `data`, `model` and `sequence` a mesh shares out the batch, the heads (with the features within
feed-forwards) and the places of a sequence. A model is told once, and its code and its results are those of one device:

```python
mesh = make_mesh({"data": 2, "model": 2, "sequence": 2})
shard_model(model, mesh)
with on_mesh(mesh):
    output = model(shard(tokens, mesh, "data", "sequence")).output
```

In JAX the compiler places the collectives, in PyTorch DTensor does. Attention alone is told how: each device attends
with its own batch elements and heads, and along a sequence by one of two schemes, for which `implementation=` asks by
name.

- `"ring"` (Liu et al. 2023), the one that is taken by itself: queries stay, keys and values go round, the softmax is
  gathered as they pass. Backward they go round again, with their gradients.
- `"all_to_all"` (Jacobs et al. 2023, DeepSpeed Ulysses): sequences come together and heads part, each device attends
  with some of the heads as if it were alone, and what was read goes back.

Masks, biases, windows, offsets, softcap, sinks, dropout masks and grouped heads are those of one device, a query that
sees nothing gets exactly zero, and gradients are complete. `parity_tests/accelerators/test_sharding.py` compares
models and calls with one device: on 8 virtual devices in JAX, in 4 processes in PyTorch.

Take gradients within `on_mesh` too. In PyTorch it mends faults of DTensor (PyTorch 2.13), which it leaves as they are
elsewhere:

- DTensor keeps the strides of an array that it redistributes, but collectives return contiguous parts. A `reshape`, or
  the gradient of one, then fails with "view size is not compatible" where a transposed array was summed or gathered, as
  in gated attention. Within `on_mesh` it copies the part; where shards forbid a view, it gathers them.
- `linalg.solve_triangular`, which `DeltaNet` and its kin call, pairs a whole matrix with a part of the right sides.
  Within `on_mesh` both sides are shared out alike.
- `cumsum`, `cumprod` and `logcumsumexp` add up each part for itself where the axis is shared out and counts from the
  back; `unbind` of an axis that is shared out fails. Within `on_mesh` the axis is gathered.

`TestOperators` of that file says when a release of PyTorch no longer has them."""


def decoder(mesh: Mesh) -> Program:
    """The decoder of the tables."""
    return decoder_on(mesh, CONFIG, TOKENS)


def attention(mesh: Mesh, scheme: str | None) -> Program:
    """The attention of the tables; on one chip there is no scheme."""
    return attention_on(mesh, SHAPE, scheme if mesh.size > 1 else None)


def along(axis: str, most: int = 16) -> Sizes:
    """All chips along one axis, as far as there is something to share out."""
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
    """Every row for every number of chips."""
    found = {}
    cells = [(name, chips) for name, (_, sizes) in ROWS.items() for chips in TOPOLOGIES if sizes(chips)]
    for name, chips in track(cells, "compiling", console=Console(stderr=True), transient=True):
        make, sizes = ROWS[name]
        alone = next((each for (other, _), each in found.items() if ROWS[other][0] is make), None)
        if chips == 1 and alone is not None:  # along which axis there is one chip is no matter
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
            ("path ends in", "shared out by `model`"),
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
