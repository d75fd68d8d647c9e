"""The JAX mirror as StableHLO for NVIDIA's GPUs, made without one: what their compiler would be given."""

from functools import partial
from types import SimpleNamespace

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from attention_bridge.accelerators.compilation import (
    Program,
    export_for,
    foreign,
    gradients_of,
    kernels,
    program_of,
)
from attention_bridge.catalogue import CATALOGUE
from jax_attention import ops
from jax_attention.ops import native

pytestmark = pytest.mark.slow

FUSED = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")
FUSED_WITH_BIAS = ("__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward")
LENGTH = 512


@pytest.fixture
def cudnn(monkeypatch):
    """As if there were a GPU: only then does JAX write cuDNN's operations down."""
    monkeypatch.setattr(native, "_gpu_is_here", lambda: True)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91900)


def exported(length=LENGTH, dtype="bfloat16", **options):
    """Gradients of `dot_product_attention` with grouped heads."""
    shapes = [jax.ShapeDtypeStruct((1, heads, length, 64), dtype) for heads in (4, 2, 2)]
    return export_for(gradients_of("", partial(ops.dot_product_attention, **options), shapes))


@pytest.mark.parametrize("mechanism", CATALOGUE, ids=lambda mechanism: mechanism.name)
def test_every_mechanism_is_exported_forward_and_backward(mechanism):
    text = export_for(program_of(mechanism))
    assert "stablehlo.dot_general" in text or not mechanism.masks
    assert foreign(text) == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"is_causal": True, "window": 100}],
    ids=["all keys", "causal", "window"],
)
@pytest.mark.usefixtures("cudnn")
def test_long_attention_in_16_bits_is_cudnn_s_and_makes_no_mask(options, dtype):
    text = exported(dtype=dtype, **options)
    assert kernels(text) == FUSED
    assert foreign(text) == ()
    assert f"{LENGTH}x{LENGTH}x" not in text


@pytest.mark.usefixtures("cudnn")
def test_what_hides_more_than_places_is_a_bias_of_its():
    text = exported(is_causal=True, mask=jax.numpy.tri(LENGTH, k=7, dtype=bool))
    assert kernels(text) == FUSED_WITH_BIAS
    assert f"{LENGTH}x{LENGTH}x" in text


@pytest.mark.parametrize(
    "options",
    [{"dtype": "float32"}, {"length": 513}, {"length": 256}, {"softcap": 30.0}],
    ids=["float32", "odd length", "short", "softcap"],
)
@pytest.mark.usefixtures("cudnn")
def test_what_cudnn_cannot_do_is_exported_without_it(options):
    text = exported(is_causal=True, **options)
    assert kernels(text) == ()
    assert foreign(text) == ()


def test_without_a_gpu_it_is_blockwise_and_its_memory_is_no_matrix():
    text = exported(length=2048, is_causal=True)
    assert kernels(text) == ()
    assert "2048x2048x" not in text
    assert "2048x2048x" in exported(length=2048, is_causal=True, implementation="reference")


@pytest.mark.parametrize(("capability", "able"), [("7.5", False), ("8.0", True), ("10.3", True)])
def test_cudnn_s_attention_is_for_gpus_that_have_it(capability, able, monkeypatch):
    monkeypatch.setattr(native.jax, "devices", lambda kind: [SimpleNamespace(compute_capability=capability)])
    assert native._gpu_is_here.__wrapped__() is able


def test_a_call_of_the_host_has_no_way_through():
    x = jax.ShapeDtypeStruct((3,), "float32")
    with pytest.raises(ValueError, match="platform"):
        export_for(Program("", lambda x: jax.pure_callback(lambda y: y, x, x), (x,)))
