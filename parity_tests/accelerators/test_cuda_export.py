"""The JAX mirror exported as StableHLO for NVIDIA GPUs, without a GPU: the programs that their compiler receives."""

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
    """Pretend that a GPU is present: only then does JAX emit cuDNN operations."""
    monkeypatch.setattr(native, "_gpu_is_here", lambda: True)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91900)


def exported(length=LENGTH, dtype="bfloat16", **options):
    """The exported gradients of `dot_product_attention` with grouped heads."""
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
def test_long_16_bit_attention_uses_cudnn_without_a_mask_array(options, dtype):
    text = exported(dtype=dtype, **options)
    assert kernels(text) == FUSED
    assert foreign(text) == ()
    assert f"{LENGTH}x{LENGTH}x" not in text


@pytest.mark.usefixtures("cudnn")
def test_mask_beyond_positions_becomes_a_cudnn_bias():
    text = exported(is_causal=True, mask=jax.numpy.tri(LENGTH, k=7, dtype=bool))
    assert kernels(text) == FUSED_WITH_BIAS
    assert f"{LENGTH}x{LENGTH}x" in text


@pytest.mark.parametrize(
    "options",
    [{"dtype": "float32"}, {"length": 513}, {"length": 256}, {"softcap": 30.0}],
    ids=["float32", "odd length", "short", "softcap"],
)
@pytest.mark.usefixtures("cudnn")
def test_calls_that_cudnn_does_not_support_are_exported_without_it(options):
    text = exported(is_causal=True, **options)
    assert kernels(text) == ()
    assert foreign(text) == ()


def test_attention_without_a_gpu_is_blockwise_without_a_square_matrix():
    text = exported(length=2048, is_causal=True)
    assert kernels(text) == ()
    assert "2048x2048x" not in text
    assert "2048x2048x" in exported(length=2048, is_causal=True, implementation="reference")


@pytest.mark.parametrize(("capability", "able"), [("7.5", False), ("8.0", True), ("10.3", True)])
def test_cudnn_attention_needs_a_gpu_that_supports_it(capability, able, monkeypatch):
    monkeypatch.setattr(native.jax, "devices", lambda kind: [SimpleNamespace(compute_capability=capability)])
    assert native._gpu_is_here.__wrapped__() is able


def test_host_callback_cannot_be_exported():
    x = jax.ShapeDtypeStruct((3,), "float32")
    with pytest.raises(ValueError, match="platform"):
        export_for(Program("", lambda x: jax.pure_callback(lambda y: y, x, x), (x,)))
