"""Layers of only a feed-forward network: equal in both mirrors, and passed over by the caches."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention.models
import torch_attention.models
from attention_bridge.weights import transfer

MODELS = {"torch": torch_attention.models, "jax": jax_attention.models}
each_mirror = pytest.mark.parametrize("mirror", MODELS)


def spec(models):
    ffn = models.Part("FeedForward", {"ffn_dim": 9, "activation": "relu_squared"})
    attention = models.Part("GroupedQueryAttention", {"num_heads": 2, "num_kv_heads": 1})
    layers = (models.LayerSpec(None, ffn), models.LayerSpec(attention), models.LayerSpec(None, ffn))
    return models.ModelSpec(vocab_size=13, embed_dim=6, layers=layers)


def model(mirror):
    made = torch_attention.models.LanguageModel(spec(torch_attention.models)).eval()
    if mirror == "torch":
        return made, torch.as_tensor, lambda x: x.detach().numpy()
    other = jax_attention.models.LanguageModel(spec(jax_attention.models), rngs=nnx.Rngs(0))
    return transfer(made, other), jnp.asarray, np.asarray


def test_layer_adds_its_network_of_the_normalised_input(rng):
    made, array, numpy = model("torch")
    found = made(array(rng.integers(0, 13, (2, 5))), need_hidden_states=True, need_weights=True)
    first, second = map(numpy, found.hidden_states[:2])
    weights = {name: x.numpy() for name, x in made.layers[0].ffn.state_dict().items()}
    normed = first / np.sqrt((first * first).mean(-1, keepdims=True) + 1e-6)
    hidden = np.maximum(normed @ weights["up_proj.weight"].T + weights["up_proj.bias"], 0) ** 2
    expected = first + hidden @ weights["down_proj.weight"].T + weights["down_proj.bias"]
    np.testing.assert_allclose(second, expected, atol=1e-5)
    assert len(found.attentions) == 1


def test_mirrors_are_equal(rng):
    made, _, _ = model("torch")
    other = transfer(made, jax_attention.models.LanguageModel(spec(jax_attention.models), rngs=nnx.Rngs(0)))
    tokens = rng.integers(0, 13, (2, 5)).astype(np.int32)
    ours = made(torch.from_numpy(tokens)).logits.detach().numpy()
    np.testing.assert_allclose(np.asarray(other(jnp.asarray(tokens)).logits), ours, atol=1e-5)


@each_mirror
def test_incremental_decoding_passes_over_the_layer(mirror, rng):
    made, array, numpy = model(mirror)
    tokens = array(rng.integers(0, 13, (2, 5)).astype(np.int32))
    caches = made.start(5)
    assert caches[0] is None
    assert caches[2] is None
    first = made(tokens[:, :3], caches=caches)
    second = made(tokens[:, 3:], caches=first.caches)
    joined = np.concatenate([numpy(first.logits), numpy(second.logits)], 1)
    np.testing.assert_allclose(joined, numpy(made(tokens).logits), atol=1e-5)
    with pytest.raises(TypeError, match="caches must hold None for a layer without a mixer"):
        made(tokens, caches=(caches[1], *caches[1:]))


@each_mirror
def test_description_goes_through_json_and_needs_a_network(mirror):
    models = MODELS[mirror]
    assert models.ModelSpec.from_dict(spec(models).to_dict()) == spec(models)
    with pytest.raises(ValueError, match="mixer=None must have a feed-forward network"):
        models.LayerSpec(None)
    with pytest.raises(ValueError, match="mixer=None must have a feed-forward network"):
        models.LayerSpec(None, models.Part("FeedForward", {"ffn_dim": 9}), "post")
