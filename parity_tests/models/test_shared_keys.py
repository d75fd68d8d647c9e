"""Layers that attend to an earlier layer's keys and values, or read vectors of the tokens: NumPy reference, caches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build
from attention_bridge.oracles.common import (
    dot_product_attention,
    gelu_tanh,
    linear,
    merge_heads,
    rms_norm,
    scope,
    split_heads,
)
from attention_bridge.pretrained.families.describe import language_model, layer_spec, model_spec
from attention_bridge.weights import transfer
from parity_tests.helpers.built import each_mirror
from parity_tests.helpers.program import program, read_on

VOCAB, EMBED, HEADS, KV_HEADS, HEAD, DIM, EPS = 11, 12, 4, 2, 6, 3, 1e-6
NORM = Part("rms_norm")
SIZES = {"num_heads": HEADS, "num_kv_heads": KV_HEADS, "head_dim": HEAD, "bias": False, "scale": 1.0}
WINDOWS = (3, None, 3, None)
SOURCES = (None, None, 0, 1)


def layer(n, **others):
    own = {"value_norm": True, "keys_as_values": n == 1} if SOURCES[n] is None else {"shares_kv": True}
    mixer = Part("QKNormAttention", {**SIZES, "window": WINDOWS[n], **own})
    fields = {"kv_layer": SOURCES[n], "token_input": Part("TokenInput"), "output_scale": True, **others}
    return layer_spec(mixer, None, "pre", NORM, **fields)


def described(layers=None, **others):
    layers = [layer(n) for n in range(4)] if layers is None else layers
    embedding = Part("LayerEmbedding", {"dim": DIM, "vocab_size": 7})
    part = language_model(model_spec(VOCAB, EMBED, layers, norm=NORM, layer_embedding=embedding))
    return Part(part.name, {**part.arguments, **others})


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    made = build(described(), "torch_attention", {})
    drawn = {name: 0.3 * torch.randn_like(x) for name, x in made.state_dict().items()}
    near_one = ("norm.weight", "output_scale")  # factors near zero would amplify rounding errors
    return {name: (x + 1.0 if name.endswith(near_one) else x).numpy() for name, x in drawn.items()}


def model_of(mirror, weights, **others):
    made = build(described(**others), mirror.package.__name__, {"rngs": nnx.Rngs(0)})
    made.eval()
    return transfer(dict(weights), made)


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def unit(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS)


def reference(weights, tokens):
    """The logits in float64."""
    p = {name: x.astype(np.float64) for name, x in weights.items()}
    x = p["token_embedding.weight"][tokens]
    inputs = scope(p, "layer_embedding")
    shape = (*tokens.shape, 4, DIM)
    own = inputs["token_embedding.weight"][np.where(tokens < 7, tokens, 0)].reshape(shape) * DIM**0.5
    context = linear(inputs, "context_proj", x) * EMBED**-0.5
    vectors = (own + rms_norm(inputs, "context_norm", context.reshape(shape), EPS)) / 2**0.5
    kept = []
    for n in range(4):
        each = scope(p, f"layers.{n}")
        attention, normed = scope(each, "attention"), rms_norm(each, "attention_norm", x, EPS)
        query = rms_norm(attention, "q_norm", split_heads(linear(attention, "q_proj", normed), HEADS), EPS)
        if SOURCES[n] is None:
            key = split_heads(linear(attention, "k_proj", normed), KV_HEADS)
            value = key if n == 1 else split_heads(linear(attention, "v_proj", normed), KV_HEADS)
            kept.append((rms_norm(attention, "k_norm", key, EPS), unit(value)))
        key, value = kept[n if SOURCES[n] is None else SOURCES[n]]
        heads, _ = dot_product_attention(query, key, value, is_causal=True, window=WINDOWS[n], scale=1.0)
        x = x + linear(attention, "out_proj", merge_heads(heads))
        token = scope(each, "token_input")
        gated = gelu_tanh(linear(token, "gate_proj", x)) * vectors[:, :, n]
        x = x + rms_norm(token, "norm", linear(token, "out_proj", gated), EPS)
        x = x * each["output_scale"]
    return linear(p, "head", rms_norm(p, "final_norm", x, EPS))


def difference(one, other):
    return np.abs(numpy(one) - numpy(other)).max() / np.abs(numpy(other)).max()


def tokens_of(rng):
    return rng.integers(0, VOCAB, (2, 8)).astype(np.int32)


@each_mirror
def test_logits_equal_a_numpy_reference(mirror, weights, rng):
    tokens = tokens_of(rng)
    expected = reference(weights, tokens)
    logits, _ = program(model_of(mirror, weights), read_on)(mirror.array(tokens))
    assert difference(logits, expected) < 1e-5


def test_logits_in_float64_equal_the_reference(weights, rng):
    """In float64 the arithmetic is compared, not the rounding; the rounding of the reference is about 1e-16."""
    tokens = tokens_of(rng)
    made = build(described(), "torch_attention", {}).double().eval()
    transfer({name: x.astype(np.float64) for name, x in weights.items()}, made)
    assert difference(made(torch.from_numpy(tokens)).logits, reference(weights, tokens)) < 1e-12


@each_mirror
@pytest.mark.parametrize("capacity", [None, 8])
def test_incremental_decoding_gives_the_same_logits(mirror, weights, rng, capacity):
    tokens, model = tokens_of(rng), model_of(mirror, weights)
    caches, parts, step = model.start(capacity), [], program(model, read_on)
    assert [each is None for each in caches] == [False, False, True, True]
    for start, stop in ((0, 3), (3, 4), (4, 8)):
        logits, caches = step(mirror.array(tokens[:, start:stop]), None, None, caches)
        parts.append(numpy(logits))
    assert difference(np.concatenate(parts, 1), reference(weights, tokens)) < 1e-5


@each_mirror
def test_generation_equals_the_most_probable_tokens_of_the_whole_sequence(mirror, weights, rng):
    tokens, model = tokens_of(rng)[:, :4], model_of(mirror, weights)
    found = numpy(mirror.package.models.generate(model, mirror.array(tokens), 5))
    for _ in range(5):
        tokens = np.concatenate([tokens, reference(weights, tokens)[:, -1:].argmax(-1)], 1)
    assert np.array_equal(found[:, -5:], tokens[:, -5:])


@each_mirror
def test_scanned_and_rematerialised_layers_give_the_same_gradients(mirror, weights, rng):
    """A scan in PyTorch is a compilation, which the tests of hybrids cover."""
    tokens = mirror.array(tokens_of(rng))
    found = []
    for given in ({}, {"remat": True}, *([{"scan_layers": True}] if mirror.name == "jax" else [])):
        model = model_of(mirror, weights, **given)
        if mirror.name == "torch":
            model(tokens).logits.square().mean().backward()
            found.append([x.grad.numpy() for x in model.parameters()])
        else:
            grads = program(model, nnx.grad(lambda model: jnp.square(model(tokens).logits).mean()))()
            found.append([np.asarray(x) for x in jax.tree.leaves(grads)])
    plain, *others = found
    for other in others:
        for one, x in zip(plain, other, strict=True):
            assert np.abs(one - x).max() <= 1e-5 * np.abs(one).max()


@each_mirror
@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [layer(0), layer(2, kv_layer=3)],
            "kv_layer must be the index of an earlier layer, got 3 in layer 1",
        ),
        ([layer(0, kv_layer=0)], "for a mixer with shares_kv=True alone, got 0"),
        ([layer(0), layer(2, kv_layer=None)], "for a mixer with shares_kv=True alone, got None"),
        ([layer(0), layer(2), layer(2, kv_layer=1)], "with keys and values of its own, got 1"),
    ],
)
def test_layer_that_no_layer_can_give_keys_is_refused(mirror, layers, message):
    with pytest.raises(ValueError, match=message):
        build(described(layers), mirror.package.__name__, {"rngs": nnx.Rngs(0)})


@each_mirror
def test_missing_and_superfluous_keys_are_refused(mirror, weights, rng):
    model, x = model_of(mirror, weights), mirror.array(np.zeros((1, 3, EMBED), np.float32))
    with pytest.raises(ValueError, match="shared must be the keys and values of an earlier layer"):
        model.layers[2].attention(x)
    _, found = model.layers[0].attention.read(x)
    with pytest.raises(ValueError, match="shared must be the keys and values of an earlier layer"):
        model.layers[0].attention(x, shared=found)
    with pytest.raises(TypeError, match="caches must hold None for a QKNormAttention with shares_kv=True"):
        model(mirror.array(np.zeros((1, 3), np.int32)), caches=(*model.start()[:2], *model.start()[:2]))
