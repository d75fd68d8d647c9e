"""Programs analysed without compilation: their cost, their kernels, and operations that accelerators lack."""

import jax
import jax.numpy as jnp
import pytest

from attention_bridge import errors as extras
from attention_bridge.accelerators import compilation as compiling
from attention_bridge.accelerators.compilation import (
    Program,
    compile_for,
    export_for,
    foreign,
    kernels,
    product_flops,
)
from attention_bridge.catalogue import select
from attention_bridge.errors import InputError
from benchmarks.linear import FORMS
from benchmarks.tpu import form_program
from jax_attention import ops

LINEAR = [form for form in FORMS if not form.is_quadratic]
QUADRATIC = [form for form in FORMS if form.is_quadratic]
both_ways = pytest.mark.parametrize("backward", [False, pytest.param(True, marks=pytest.mark.slow)])
A, B = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((3, 5), (5, 7)))


def counted(function, *shapes):
    return product_flops(Program("", function, shapes))


def test_matrix_product_costs_two_operations_per_summed_pair():
    assert counted(jnp.matmul, A, B) == 2 * 3 * 5 * 7
    batched = jax.ShapeDtypeStruct((4, 3, 5), "float32")
    assert counted(lambda a, b: jnp.einsum("bij,jk->ibk", a, b), batched, B) == 4 * 2 * 3 * 5 * 7
    assert counted(jnp.add, A, A) == 0


def test_loop_body_and_called_functions_count_in_every_iteration():
    def turns(a, b):
        step = jax.jit(lambda a, b: a + (a @ b) @ b.T)
        return jax.lax.scan(lambda a, _: (step(a, b), None), a, length=11)[0]

    assert counted(turns, A, B) == 11 * 2 * (2 * 3 * 5 * 7)
    assert counted(lambda a, b: jax.lax.cond(a[0, 0] > 0, turns, lambda a, b: a, a, b), A, B) == counted(
        turns, A, B
    )


def test_loop_with_unknown_iteration_count_raises():
    def loop(a, b):
        return jax.lax.while_loop(lambda a: a.sum() < 1, lambda a: a + a @ b @ b.T, a)

    with pytest.raises(InputError, match=r"^product_flops needs loops with a known number of iterations"):
        counted(loop, A, B)


@both_ways
@pytest.mark.parametrize("form", LINEAR, ids=lambda form: form.function)
def test_cost_of_attention_without_a_softmax_is_linear(form, backward):
    costs = [product_flops(form_program(form, length, backward)) for length in (128, 256, 512)]
    assert costs[0] > 0
    assert costs[2] - costs[1] == 2 * (costs[1] - costs[0])


@both_ways
@pytest.mark.parametrize("form", QUADRATIC, ids=lambda form: form.function)
def test_cost_of_the_parallel_form_is_quadratic(form, backward):
    costs = [product_flops(form_program(form, length, backward)) for length in (128, 256)]
    assert costs[1] >= 3.5 * costs[0]


def test_cost_of_softmax_attention_is_quadratic():
    def cost(length):
        shapes = [jax.ShapeDtypeStruct((1, 4, length, 64), "float32")] * 3
        return counted(lambda *x: ops.dot_product_attention(*x, implementation="reference"), *shapes)

    assert cost(512) == 4 * cost(256)


def test_float64_is_found_and_similar_text_is_not():
    program = Program("", lambda a: a.astype("float64").astype("float32"), (A,))
    assert foreign(export_for(Program("", lambda a: 2 * a, (A,)))) == ()
    with jax.enable_x64(True):
        assert foreign(export_for(program)) == ("float64",)
    assert foreign("%f64 = f32[8]{0} add(f32[8] %x, f32[8] %pdf64)") == ("float64",)
    assert foreign("%my_f64x = bf16[64]{0} add(bf16[64] %x)") == ()


@pytest.mark.parametrize(
    "text",
    [
        '%c = f32[] custom-call(), custom_call_target="xla_ffi_python_cpu_callback"',
        "stablehlo.custom_call @xla_python_gpu_callback(%0) {api_version = 2 : i32}",
        "%r = (f32[8], u32[]) recv(%token), is_host_transfer=true",
        "%o = token[] outfeed(%x, %token)",
        "stablehlo.send is_host_transfer = true",
    ],
)
def test_host_callback_is_found(text):
    assert foreign(text) == ("host callback",)


def test_kernels_have_their_own_names_and_other_calls_are_none():
    text = """
  %splash_mha_dq.1 = (f32[8]) custom-call(%x), custom_call_target="tpu_custom_call", metadata={}
  %splash_mha_dq.2 = (f32[8]) custom-call(%x), custom_call_target="tpu_custom_call"
  %buffer = f32[8] custom-call(), custom_call_target="AllocateBuffer"
  %10:3 = stablehlo.custom_call @__cudnn$fmhaSoftmax(%6, %7, %8) {api_version = 2 : i32}
  %11 = stablehlo.custom_call @Sharding(%10)
"""
    assert kernels(text) == ("__cudnn$fmhaSoftmax", "splash_mha_dq")


def test_missing_compiler_raises_with_its_installation(monkeypatch):
    compiling.tpu_devices.cache_clear()
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"libtpu; .* pip install libtpu .*\[tpu-aot\]\)$"):
        compile_for(Program("", jnp.matmul, (A, B)))


def test_mechanism_program_is_that_of_the_proof():
    (mechanism,) = select(["MultiHeadSelfAttention"])
    program = compiling.program_of(mechanism, dtype="bfloat16")
    outputs, (of_parameters, of_inputs) = jax.eval_shape(program.function, *program.arguments)
    assert outputs["output"].shape == (2, 5, 12)
    assert outputs["output"].dtype == jnp.bfloat16
    assert set(of_inputs) == {"x"}
    assert jax.tree.map(lambda x: x.shape, of_parameters) == jax.tree.map(
        lambda x: x.shape, program.arguments[0]
    )
