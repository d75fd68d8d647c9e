"""Programs sharded over many TPU chips, as the TPU compiler builds them: collectives, and less memory per chip."""

from functools import cache

import jax
import pytest

from attention_bridge.accelerators.many_chips import attention_on, compile_on, decoder_on, described_mesh
from jax_attention.models import LayerSpec, ModelSpec, Part

pytest.importorskip(
    "libtpu", reason="the TPU's compiler is not installed: pip install 'attention-bridge[tpu-aot]'"
)
pytestmark = pytest.mark.slow

ATTENTION = Part("GroupedQueryAttention", {"num_heads": 16, "num_kv_heads": 16, "bias": False,
                                          "position": Part("RotaryEmbedding", {"head_dim": 8})})  # fmt: skip
CONFIG = ModelSpec(64, 128, (LayerSpec(ATTENTION, Part("GatedFeedForward", {"ffn_dim": 512})),))
TOKENS = (16, 64)
SHAPE = (4, 16, 512, 128)
SHARED = 2 * (4 * 128 * 128 + 3 * 128 * 512)  # bytes of the matrices in the table of `sharding`
LANES = 128  # the last axis of an array is padded to a multiple of this on a chip
SCHEMES = {"ring": "collective-permute", "all_to_all": "all-to-all"}


@pytest.fixture(autouse=True)
def as_users_have_it(precision):
    """The default matmul precision of JAX instead of the precision of the proof."""
    with jax.default_matmul_precision("default"):
        yield


@cache
def attention(topology, implementation=None, **sizes):
    """The compiled gradients of attention."""
    mesh = described_mesh(topology, sizes)
    return compile_on(attention_on(mesh, SHAPE, implementation), mesh)


@cache
def decoder(topology, **sizes):
    """The compiled gradients of a decoder."""
    mesh = described_mesh(topology, sizes)
    return compile_on(decoder_on(mesh, CONFIG, TOKENS), mesh)


def token_bytes(texts):
    """The bytes that so many texts of at most `LANES` tokens take on a chip."""
    return 4 * texts * LANES


@pytest.mark.parametrize("scheme", SCHEMES)
def test_memory_per_chip_falls_with_more_chips_along_the_sequence(scheme):
    four, sixteen = attention("v5e:2x2", scheme, sequence=4), attention("v5e:4x4", scheme, sequence=16)
    for found in (four, sixteen):
        assert found.collectives.keys() == {SCHEMES[scheme]}
    assert [four.chips, sixteen.chips] == [4, 16]
    assert sixteen.arguments * 4 == four.arguments
    assert sixteen.temporary < four.temporary


def test_batch_and_heads_need_no_collective_and_keep_the_kernel():
    found = attention("v5e:4x4", data=4, model=4)
    assert found.collectives == {}
    assert any(name.startswith("splash_mha_fwd") for name in found.kernels)


@pytest.mark.parametrize("axis", ["data", "model", "sequence"])
def test_decoder_uses_the_collectives_of_its_axis(axis):
    found = decoder("v5e:4x4", **{axis: 16})
    expected = {"all-reduce"} | ({"collective-permute"} if axis == "sequence" else set())
    assert found.collectives.keys() == expected


def test_parameters_of_heads_and_feed_forwards_are_sharded():
    data, model = decoder("v5e:4x4", data=16), decoder("v5e:4x4", model=16)
    saved = (data.arguments - token_bytes(1)) - (model.arguments - token_bytes(TOKENS[0]))
    assert saved == SHARED * 15 // 16


def test_all_three_axes_work_together_on_64_chips():
    found = decoder("v5p:4x4x4", data=4, model=4, sequence=4)
    assert found.chips == 64
    assert found.collectives.keys() == {"all-reduce", "collective-permute"}
    data = decoder("v5e:4x4", data=16)
    assert found.arguments - token_bytes(4) == data.arguments - token_bytes(1) - SHARED * 3 // 4
