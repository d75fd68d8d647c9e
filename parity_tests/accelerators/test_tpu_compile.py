"""The JAX mirror compiled by the TPU compiler for chips that are only described: nothing runs on a chip."""

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
    """The default matmul precision of JAX instead of the precision of the proof."""
    with jax.default_matmul_precision("default"):
        yield


def attention(length, *, dtype="bfloat16", head_dim=HEAD_DIM, batch=(1,), backward=True, **options):
    """A program of the gradients of `dot_product_attention` with grouped heads, or of the forward pass only."""
    function = partial(ops.dot_product_attention, **options)
    shapes = [
        jax.ShapeDtypeStruct((*batch, heads, length, head_dim), dtype)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    if backward:
        return gradients_of("attention", function, shapes)
    return Program("attention", function, tuple(shapes))


def assert_is_fused(found):
    """Assert that all three kernels of splash attention are called, and no operation that a chip lacks."""
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
def test_sample_compiles_for_the_other_chips(name, chip):
    found = compile_for(program_of(*select([name])), chip)
    assert found.foreign == ()
    assert found.flops > 0


@pytest.mark.parametrize("chip", compiling.CHIPS)
def test_compiled_chip_is_the_requested_one(chip):
    assert compiling.tpu_devices(compiling.CHIPS[chip])[0].device_kind == KINDS[chip]


@pytest.mark.parametrize("chip", compiling.CHIPS)
def test_long_attention_uses_the_kernel_on_every_chip(chip):
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
def test_supported_call_uses_the_kernel(options):
    assert_is_fused(compile_for(attention(513, **options)))


@pytest.mark.parametrize("transform", [jax.vmap, jax.checkpoint])
def test_vmap_and_checkpoint_keep_the_kernel(transform):
    _, _, shapes = attention(512, batch=(2, 1))
    assert_is_fused(compile_for(gradients_of("", transform(partial(ops.dot_product_attention)), shapes)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_highest_precision_uses_the_kernel_only_in_float32(dtype):
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
def test_unsupported_call_compiles_without_the_kernel(length, options):
    found = compile_for(attention(length, backward=False, **options))
    assert found.kernels == ()
    assert found.foreign == ()


@pytest.mark.parametrize("need_weights", [False, True])
def test_module_uses_the_kernel_only_without_weights(need_weights):
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


def test_temporary_memory_is_linear_with_the_kernel_and_quadratic_without():
    lengths = (2048, 4096)
    fused, definition = (
        [compile_for(attention(length, is_causal=True, implementation=each)).temporary for length in lengths]
        for each in (None, "reference")
    )
    assert 0 < fused[1] <= 2 * fused[0]
    assert definition[1] >= 3.5 * definition[0] > 0
    assert definition[0] >= 2 * HEADS * lengths[0] ** 2  # at least one 16-bit matrix of weights
    assert fused[1] <= 4 * HEADS * lengths[1] * HEAD_DIM  # less than the queries in float32


def test_cost_of_linear_attention_is_linear_and_of_softmax_quadratic():
    def costs(name, **options):
        (entry,) = select([name])
        longer = (replace(entry, sizes={**entry.sizes, "query": length}) for length in (256, 512))
        return [compile_for(program_of(each, case="none", **options)) for each in longer]

    short, long = costs("LinearAttention-bidirectional", need_weights=False)
    assert 1.9 * short.flops <= long.flops <= 2.1 * short.flops
    short, long = costs("CausalSelfAttention")
    assert long.flops >= 3.5 * short.flops


def test_float64_and_host_callbacks_are_reported():
    def found(function):
        return compile_for(Program("", function, (x,))).foreign

    x = jax.ShapeDtypeStruct((8, 128), jnp.float32)
    assert found(lambda x: 2 * x) == ()
    assert found(lambda x: jax.pure_callback(lambda y: y, x, x) + 1) == ("host callback",)
    with jax.enable_x64(True):
        assert found(lambda x: (2 * x.astype(jnp.float64)).astype(jnp.float32)) == ("float64",)


def test_unknown_chip_raises():
    with pytest.raises(InputError, match=r"^chip must be one of v4, v5e, v5p, v6e, v7x, got v5$"):
        compile_for(attention(8), "v5")


def test_several_processes_compile_at_once_silently():
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
