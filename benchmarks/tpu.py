"""What the TPU's compiler says of every mechanism: `python -m benchmarks.tpu` prints `docs/tpu.md`. Nothing is run."""

from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version

import jax
from rich.console import Console
from rich.progress import track

from attention_bridge.accelerators.compilation import (
    CHIPS,
    Compiled,
    Program,
    compile_for,
    gradients_of,
    product_flops,
    program_of,
)
from attention_bridge.catalogue import CATALOGUE
from attention_bridge.pages.markdown import table
from benchmarks.linear import BATCH, DIM, FORMS, HEADS, Form
from jax_attention.ops import dot_product_attention

CHIP = "v5e"
LENGTHS = (1024, 2048, 4096, 8192)
LONG_LENGTHS = (*LENGTHS, 32768)  # at which a matrix of weights is larger than the chip's memory
QUERY_HEADS, KV_HEADS, HEAD_DIM = 8, 2, 128
WAYS = {"fastest": None, "blockwise": "blockwise", "reference": "reference"}

PAGE = """# On TPU

Printed by `python -m benchmarks.tpu` with {versions}. **Compiled, not run**: these are figures of the TPU's own
compiler, for a chip that is only described ({chip}; {others} compile as well). Outputs and gradients together, in
JAX's own precision of products.

`flops` and `bytes`, read and written, are as the compiler counts them: the body of a loop once, a kernel written in
Pallas not at all. `temporary` is what a program needs of the chip's main memory besides arguments and results; what
fits into the small memory beside its units is not in it.

## Causal attention against the length

`dot_product_attention` on one sequence, {query_heads} heads of queries that share {kv_heads} of keys, {head_dim}
features, bfloat16: bytes of temporary memory. Left to itself it is splash attention, `tpu_custom_call`: {kernels}.

{fused}

## Attention without a softmax against the length

Millions of multiplications and additions in all matrix products, a loop's body counted as often as it runs: one
sequence of {heads} heads of {dim} features, float32, with gradients. Counted, not compiled.

{linear}

## Every mechanism

The smallest instance of each, as the proof runs it, in float32, with masks where it takes them.

{catalogue}"""


def attention_program(length: int, implementation: str | None) -> Program:
    """The gradients of causal attention at that length."""
    shapes = [
        jax.ShapeDtypeStruct((1, heads, length, HEAD_DIM), "bfloat16")
        for heads in (QUERY_HEADS, KV_HEADS, KV_HEADS)
    ]
    function = partial(dot_product_attention, is_causal=True, implementation=implementation)
    return gradients_of(f"{implementation} {length}", function, shapes)


def form_program(form: Form, length: int, backward: bool = True) -> Program:
    """One form of attention without a softmax, on a sequence of that length; or its gradients."""
    function = getattr(import_module("jax_attention.linear"), form.function)
    shape = (BATCH, HEADS, length, DIM)
    shapes = dict.fromkeys(("query", "key", "value"), shape)
    shapes |= {name.removesuffix("s"): shape if name == "log_decays" else shape[:-1] for name in form.further}

    def output(*arrays: jax.Array) -> jax.Array:
        found = function(**dict(zip(shapes, arrays, strict=True)))
        return found[0] if isinstance(found, tuple) else found

    given = [jax.ShapeDtypeStruct(each, "float32") for each in shapes.values()]
    if backward:
        return gradients_of(form.function, output, given)
    return Program(form.function, output, tuple(given))


def softmax_program(length: int) -> Program:
    """The gradients of softmax attention on the same sequence, for contrast."""
    shapes = [jax.ShapeDtypeStruct((BATCH, HEADS, length, DIM), "float32")] * 3
    return gradients_of(
        "softmax attention", partial(dot_product_attention, implementation="reference"), shapes
    )


def page() -> str:
    """All three tables, as a page in Markdown."""
    fused = {
        (way, length): compile_for(attention_program(length, implementation), CHIP)
        for way, implementation in WAYS.items()
        for length in (LENGTHS if way == "reference" else LONG_LENGTHS)
    }
    everything = track(CATALOGUE, "compiling", console=Console(stderr=True), transient=True)
    compiled = [compile_for(program_of(mechanism), CHIP) for mechanism in everything]
    return PAGE.format(
        versions=", ".join(f"{package} {version(package)}" for package in ("jax", "libtpu")),
        chip=CHIP,
        others=", ".join(chip for chip in CHIPS if chip != CHIP),
        query_heads=QUERY_HEADS,
        kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        kernels=", ".join(f"`{name}`" for name in fused["fastest", LENGTHS[0]].kernels),
        fused=table(("", *map("{:,}".format, LONG_LENGTHS)), _fused_rows(fused), figures=None),
        heads=HEADS,
        dim=DIM,
        linear=table(("form", *map("{:,}".format, LENGTHS)), _linear_rows(), figures=None),
        catalogue=table(("mechanism", "flops", "bytes", "temporary"), _rows(compiled), figures=None),
    )


def _fused_rows(found: dict[tuple[str, int], Compiled]) -> Iterator[Sequence[str]]:
    for way in WAYS:
        cells = (found.get((way, length)) for length in LONG_LENGTHS)
        yield way, *("" if each is None else f"{each.temporary:,}" for each in cells)


def _linear_rows() -> Iterator[Sequence[str]]:
    makers = [*(partial(form_program, form) for form in FORMS), softmax_program]
    for make in makers:
        programs = [make(length) for length in LENGTHS]
        yield programs[0].name, *(f"{product_flops(each) / 1e6:,.0f}" for each in programs)


def _rows(compiled: Sequence[Compiled]) -> Iterator[Sequence[str]]:
    for each in compiled:
        yield each.name, f"{each.flops:,.0f}", f"{each.bytes_accessed:,.0f}", f"{each.temporary:,}"


if __name__ == "__main__":
    print(page())
