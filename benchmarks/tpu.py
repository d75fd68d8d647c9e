"""Operations and memory of every mechanism compiled for a TPU: `python -m benchmarks.tpu` prints `docs/tpu.md`.

Programs are compiled and not run.
"""

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
LONG_LENGTHS = (*LENGTHS, 32768)  # at the last one the attention weights exceed the chip's memory
QUERY_HEADS, KV_HEADS, HEAD_DIM = 8, 2, 128
WAYS = {"fastest": None, "blockwise": "blockwise", "reference": "reference"}

PAGE = """# On TPU

Printed by `python -m benchmarks.tpu` with {versions}. The programs are **compiled, not run**: the figures come from the
TPU compiler, for the description of a chip ({chip}; {others} also compile). Each program computes outputs and
gradients, in JAX's default precision of matrix products.

`flops` and `bytes` (read and written) are the compiler's counts. It counts the body of a loop once, and Pallas kernels
not at all. `temporary` is the main memory that a program needs besides arguments and results; data that fit into
on-chip memory are not included.

## Causal attention against the length

`dot_product_attention` on one sequence with {query_heads} query heads that share {kv_heads} key/value heads, {head_dim}
features, bfloat16: bytes of temporary memory. The default is splash attention, `tpu_custom_call`: {kernels}.

{fused}

## Attention without a softmax against the length

Millions of multiplications and additions in all matrix products, with loop bodies counted for every iteration: one
sequence with {heads} heads of {dim} features, float32, with gradients. Counted, not compiled.

{linear}

## Every mechanism

The small instance of each mechanism in the catalogue, in float32, with masks if the mechanism takes them.

{catalogue}"""


def attention_program(length: int, implementation: str | None) -> Program:
    """The program of causal attention with gradients at a given length."""
    shapes = [
        jax.ShapeDtypeStruct((1, heads, length, HEAD_DIM), "bfloat16")
        for heads in (QUERY_HEADS, KV_HEADS, KV_HEADS)
    ]
    function = partial(dot_product_attention, is_causal=True, implementation=implementation)
    return gradients_of(f"{implementation} {length}", function, shapes)


def form_program(form: Form, length: int, backward: bool = True) -> Program:
    """The program of one form of attention without a softmax at a given length, with gradients if `backward`."""
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
    """The program of softmax attention with gradients on the same sequence, for comparison."""
    shapes = [jax.ShapeDtypeStruct((BATCH, HEADS, length, DIM), "float32")] * 3
    return gradients_of(
        "softmax attention", partial(dot_product_attention, implementation="reference"), shapes
    )


def page() -> str:
    """The page with all three tables in Markdown."""
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
