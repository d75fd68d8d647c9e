"""What the TPU's compiler makes of the JAX mirror, for chips that are only described: nothing is run here."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from attention_bridge.accelerators import compilation as compiling
from attention_bridge.accelerators.compilation import Program, compile_for, gradients_of, program_of
from attention_bridge.catalogue import CATALOGUE, Part, select
from attention_bridge.errors import InputError
from jax_attention import ops

pytest.importorskip(
    "libtpu", reason="the TPU's compiler is not installed: pip install 'attention-bridge[tpu-aot]'"
)
pytestmark = pytest.mark.slow

KINDS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite", "v7x": "TPU7x"}
OTHERS = [chip for chip in compiling.CHIPS if chip != "v5e"]
SAMPLE = ("MultiHeadCrossAttention", "SlidingWindowAttention", "LinearAttention", "TopKAttention")
SPLASH = ("splash_mha_dkv", "splash_mha_dq", "splash_mha_fwd")
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 128


@pytest.fixture(autouse=True)
def as_users_have_it(precision):
    """JAX's own precision of products, not the one that parity is proven in."""
    with jax.default_matmul_precision("default"):
        yield


def attention(length, *, dtype="bfloat16", head_dim=HEAD_DIM, batch=(1,), backward=True, **options):
    """Gradients of `dot_product_attention` with grouped heads, or with `backward=False` itself, as a program."""
    function = partial(ops.dot_product_attention, **options)
    shapes = [
        jax.ShapeDtypeStruct((*batch, heads, length, head_dim), dtype)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    if backward:
        return gradients_of("attention", function, shapes)
    return Program("attention", function, tuple(shapes))


def assert_is_fused(found):
    """All three kernels of splash attention are called, and nothing that a chip cannot do."""
    assert tuple(any(name.startswith(kernel) for name in found.kernels) for kernel in SPLASH) == (True,) * 3
    assert "tpu_custom_call" in found.hlo
    assert found.foreign == ()


@pytest.mark.parametrize("mechanism", CATALOGUE, ids=lambda mechanism: mechanism.name)
def test_every_mechanism_compiles_forward_and_backward(mechanism):
    found = compile_for(program_of(mechanism))
    assert found.foreign == ()
    assert found.flops > 0
    assert found.bytes_accessed > 0


@pytest.mark.parametrize("chip", OTHERS)
@pytest.mark.parametrize("name", SAMPLE)
def test_so_does_a_sample_for_the_other_chips(name, chip):
    found = compile_for(program_of(*select([name])), chip)
    assert found.foreign == ()
    assert found.flops > 0


@pytest.mark.parametrize("chip", compiling.CHIPS)
def test_the_chip_is_the_one_that_was_asked_for(chip):
    assert compiling.tpu_devices(compiling.CHIPS[chip])[0].device_kind == KINDS[chip]


@pytest.mark.parametrize("chip", compiling.CHIPS)
def test_long_attention_is_the_kernel_of_every_chip(chip):
    assert_is_fused(compile_for(attention(512, is_causal=True), chip))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True, "window": 130},
        {"softcap": 30.0, "head_dim": 64},
        {"is_causal": True, "dtype": "float32"},
        {"is_causal": True, "batch": (2, 3)},
    ],
    ids=["all keys", "window", "softcap", "float32", "two batch axes"],
)
def test_so_is_every_call_that_it_can_do(options):
    assert_is_fused(compile_for(attention(513, **options)))


@pytest.mark.parametrize("transform", [jax.vmap, jax.checkpoint])
def test_it_stays_the_kernel_where_it_is_mapped_or_computed_twice(transform):
    _, _, shapes = attention(512, batch=(2, 1))
    assert_is_fused(compile_for(gradients_of("", transform(partial(ops.dot_product_attention)), shapes)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_more_precise_products_are_those_of_the_kernel_in_float32_alone(dtype):
    with jax.default_matmul_precision("highest"):
        found = compile_for(attention(512, dtype=dtype, backward=False))
    assert bool(found.kernels) == (dtype == "float32")


@pytest.mark.parametrize(
    ("length", "options"),
    [
        (256, {"is_causal": True}),
        (512, {"is_causal": True, "dtype": "float16"}),
        (512, {"is_causal": True, "head_dim": 80}),
        (512, {"is_causal": True, "query_offset": jnp.array(3)}),
        (512, {"mask": jnp.tri(512, dtype=bool)}),
        (512, {"is_causal": True, "implementation": "blockwise"}),
    ],
    ids=["short", "float16", "head_dim", "traced offset", "mask", "blockwise"],
)
def test_what_it_cannot_do_compiles_without_it(length, options):
    found = compile_for(attention(length, backward=False, **options))
    assert found.kernels == ()
    assert found.foreign == ()


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_module_without_weights_is_the_kernel_and_with_them_it_is_not(need_weights):
    (entry,) = select(["CausalSelfAttention"])
    heads, embed = 2, 2 * HEAD_DIM
    wide = replace(
        entry,
        module=Part("CausalSelfAttention", {"embed_dim": embed, "num_heads": heads}),
        sizes={**entry.sizes, "embed": embed, "query": 384, "heads": heads},
    )
    program = program_of(wide, dtype="bfloat16", case="none", need_weights=need_weights)
    found = compile_for(program)
    if need_weights:
        assert found.kernels == ()
    else:
        assert_is_fused(found)


def test_temporary_memory_of_the_kernel_is_linear_and_that_of_the_definition_quadratic():
    lengths = (2048, 4096)
    fused, definition = (
        [compile_for(attention(length, is_causal=True, implementation=each)).temporary for length in lengths]
        for each in (None, "reference")
    )
    assert 0 < fused[1] <= 2 * fused[0]
    assert definition[1] >= 3.5 * definition[0] > 0
    assert definition[0] >= 2 * HEADS * lengths[0] ** 2  # one matrix of weights in 16 bits, and more
    assert fused[1] <= 4 * HEADS * lengths[1] * HEAD_DIM  # less than the queries in 32


def test_cost_of_linear_attention_is_linear_and_that_of_softmax_quadratic():
    def costs(name, **options):
        (entry,) = select([name])
        longer = (replace(entry, sizes={**entry.sizes, "query": length}) for length in (256, 512))
        return [compile_for(program_of(each, case="none", **options)) for each in longer]

    short, long = costs("LinearAttention-bidirectional", need_weights=False)
    assert 1.9 * short.flops <= long.flops <= 2.1 * short.flops
    short, long = costs("CausalSelfAttention")
    assert long.flops >= 3.5 * short.flops


def test_float64_and_calls_of_the_host_do_not_go_unseen():
    def found(function):
        return compile_for(Program("", function, (x,))).foreign

    x = jax.ShapeDtypeStruct((8, 128), jnp.float32)
    assert found(lambda x: 2 * x) == ()
    assert found(lambda x: jax.pure_callback(lambda y: y, x, x) + 1) == ("host callback",)
    with jax.enable_x64(True):
        assert found(lambda x: (2 * x.astype(jnp.float64)).astype(jnp.float32)) == ("float64",)


def test_a_chip_that_there_is_not_is_refused():
    with pytest.raises(InputError, match=r"^chip must be one of v4, v5e, v5p, v6e, v7x, got v5$"):
        compile_for(attention(8), "v5")


def test_several_processes_compile_at_once_and_say_nothing():
    program = (
        "import jax, sys; from attention_bridge.accelerators.compilation import *; "
        "found = compile_for(Program('double', lambda x: 2 * x, (jax.ShapeDtypeStruct((8,), 'float32'),)));"
        "print('compiled', flush=True); sys.stdin.read()"  # waits until the others are done
    )
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for _ in range(2)
    ]
    assert [process.stdout.readline() for process in running] == ["compiled\n"] * 2
    assert [process.communicate()[1] for process in running] == [""] * 2
