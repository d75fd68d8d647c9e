"""Attention and a recurrent layer in parallel: their sum, their decoding state, and the arguments that are rejected."""

import numpy as np
import pytest
from flax import nnx

import jax_attention.models as jax_models
import torch_attention.models as torch_models
from parity_tests.helpers.built import each_mirror
from parity_tests.helpers.program import program


def parts(mirror, embed_dim=6, other_dim=6):
    """Attention and a recurrent layer."""
    package, own = mirror.package, {"rngs": nnx.Rngs(0)} if mirror.name == "jax" else {}
    return (
        package.GroupedQueryAttention(embed_dim, 3, 1, head_dim=4, is_causal=True, **own),
        package.Mamba2(other_dim, 2, head_dim=5, state_dim=3, **own),
    )


def mixers(mirror, **scales):
    return mirror.package.models.ParallelMixers(*parts(mirror), **scales)


def numpy(x):
    return np.asarray(x.tolist())


@each_mirror
def test_output_is_the_sum_of_both_outputs(mirror, rng):
    layer = mixers(mirror, attention_scales=(0.5, 2.0), recurrent_scales=(3.0, 0.25))
    x = mirror.array(rng.standard_normal((2, 5, 6)).astype(np.float32))
    attended = layer.attention_mixer(0.5 * x)
    expected = 2.0 * numpy(attended.output) + 0.25 * numpy(layer.recurrent_mixer(3.0 * x).output)
    found = layer(x, need_weights=True)
    np.testing.assert_allclose(numpy(found.output), expected, atol=1e-5)
    np.testing.assert_allclose(numpy(found.weights), numpy(attended.weights), atol=1e-6)
    assert found.state is None


def read_with(layer, x, state=None):
    found = layer(x, state=state)
    return found.output, found.state


@each_mirror
@pytest.mark.parametrize("capacity", [None, 7])
def test_decoding_in_parts_equals_the_whole_sequence(mirror, capacity, rng):
    layer = mixers(mirror)
    x = mirror.array(rng.standard_normal((2, 5, 6)).astype(np.float32))
    run = program(layer, read_with)
    first, state = run(x[:, :3], layer.start(capacity))
    second, state = run(x[:, 3:4], state)
    third, _ = run(x[:, 4:], state)
    joined = np.concatenate([numpy(each) for each in (first, second, third)], 1)
    np.testing.assert_allclose(joined, numpy(run(x)[0]), atol=1e-5)


@each_mirror
def test_padding_changes_no_later_output(mirror, rng):
    layer = mixers(mirror)
    x = rng.standard_normal((2, 5, 6)).astype(np.float32)
    mask = mirror.array(np.array([[True] * 5, [False, False, True, True, True]])[:, None, None])
    padded = program(layer, lambda layer, x, mask: layer(x, mask).output)(mirror.array(x), mask)
    alone, _ = program(layer, read_with)(mirror.array(x[1:, 2:]))
    np.testing.assert_allclose(numpy(padded)[1, 2:], numpy(alone)[0], atol=1e-5)


@each_mirror
def test_state_of_another_kind_raises(mirror, rng):
    layer = mixers(mirror)
    x = mirror.array(rng.standard_normal((2, 5, 6)).astype(np.float32))
    cache = mirror.package.GrowingCache()
    with pytest.raises(TypeError, match=r"must be a ParallelState from start\(\), got GrowingCache"):
        layer.check_state(cache)
    with pytest.raises(TypeError, match=r"must be a ParallelState from start\(\), got None"):
        layer.check_state(None)
    state = mirror.package.models.ParallelState(None, None)
    with pytest.raises(TypeError, match="caches must hold a cache for GroupedQueryAttention, got None"):
        layer(x, state=state)
    with pytest.raises(TypeError, match="caches must hold a state for Mamba2, or None at first"):
        layer(x, state=mirror.package.models.ParallelState(cache, cache))


@each_mirror
def test_impossible_arguments_raise(mirror):
    with pytest.raises(ValueError, match="attention_scales must be two numbers, got 1"):
        mixers(mirror, attention_scales=(1.0,))
    with pytest.raises(ValueError, match="recurrent_scales must be two numbers, got 3"):
        mixers(mirror, recurrent_scales=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="recurrent_mixer must have embed_dim=6 as attention_mixer, got 8"):
        mirror.package.models.ParallelMixers(*parts(mirror, other_dim=8))


@pytest.mark.parametrize("models", [torch_models, jax_models], ids=["torch", "jax"])
def test_description_takes_only_parts_of_their_roles(models):
    attention = models.Part("GroupedQueryAttention", {"num_heads": 3, "num_kv_heads": 1})
    memory = models.Part("Mamba2", {"num_heads": 2, "head_dim": 5, "state_dim": 3})
    own = {"rngs": nnx.Rngs(0)} if models is jax_models else {}

    def build(first, second):
        mixer = models.Part("ParallelMixers", {"attention_mixer": first, "recurrent_mixer": second})
        spec = models.ModelSpec(vocab_size=13, embed_dim=6, layers=(models.LayerSpec(mixer),))
        return models.LanguageModel(spec, **own)

    assert build(attention, memory).layers[0].attention.attention_mixer.is_causal
    with pytest.raises(ValueError, match=r"attention_mixer must be causal attention, .* got Mamba2"):
        build(memory, memory)
    with pytest.raises(ValueError, match=r"recurrent_mixer must be a recurrent layer, .* got GroupedQuery"):
        build(attention, attention)
