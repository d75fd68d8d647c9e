"""The decoder: incremental decoding, generation, and equality with GPT-2 of transformers."""

import re
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import jax_attention
import torch_attention
from attention_bridge.catalogue import Part
from attention_bridge.parity.instances import jax_with
from attention_bridge.weights import convert, transfer
from jax_attention import models as jax_models
from torch_attention import models as torch_models

BATCH, LENGTH, LAYERS, NEW = 2, 7, 2, 4
SIZES = {
    "vocab_size": 17,
    "embed_dim": 12,
    "num_heads": 3,
    "num_layers": LAYERS,
    "ffn_dim": 13,
    "max_len": 11,
}
# 4 u sqrt(n), with n the longest sum: projections, scores, values and feed-forward of each layer, and the logits.
BOUND = 4 * 2.0**-24 * np.sqrt(LAYERS * (12 + 4 + LENGTH + 12 + 12 + 13) + 12)


def reference():
    """GPT-2 with random weights, large enough that the most likely token is clearly ahead."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=17,
        n_embd=12,
        n_head=3,
        n_layer=LAYERS,
        n_inner=13,
        n_positions=11,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def gpt2():
    return reference()


@pytest.fixture(scope="module")
def mirrors(gpt2):
    state = {name: x.numpy() for name, x in gpt2.state_dict().items()}
    weights, _ = convert(state, "hf.gpt2", "torch_attention")
    ours = torch_models.Decoder(torch_models.DecoderConfig(**SIZES)).eval()
    transfer(weights, ours)
    theirs = jax_with(Part("Decoder", {"config": Part("DecoderConfig", SIZES)}), weights, {})
    return {
        "torch": SimpleNamespace(
            package=torch_attention, models=torch_models, model=ours, array=torch.from_numpy
        ),
        "jax": SimpleNamespace(package=jax_attention, models=jax_models, model=theirs, array=jnp.asarray),
    }


@pytest.fixture(params=["torch", "jax"])
def mirror(request, mirrors):
    return mirrors[request.param]


@pytest.fixture
def tokens():
    return np.random.default_rng(1).integers(0, 17, (BATCH, LENGTH)).astype(np.int32)


@pytest.fixture
def padded(tokens):
    """Tokens, and a mask of the real ones: the second text is shorter and left-padded."""
    mask = np.ones((BATCH, 1, 1, LENGTH), bool)
    mask[1, ..., :3] = False
    return tokens, mask


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def error(found, expected):
    return np.abs(numpy(found) - numpy(expected)).max() / np.abs(numpy(expected)).max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["growing", "static"])
def test_chunks_with_caches_give_the_logits_of_the_whole_text(mirror, kind, tokens):
    m = mirror.package
    empty = {"growing": m.GrowingCache(), "static": m.StaticCache(capacity=LENGTH)}[kind]
    caches, found = (empty,) * LAYERS, []
    for part in np.split(tokens, [3, 4], axis=1):
        read = mirror.model(mirror.array(part.copy()), caches=caches)
        caches = read.caches
        found.append(numpy(read.logits))
    expected = mirror.model(mirror.array(tokens)).output
    assert error(np.concatenate(found, axis=1), expected) <= BOUND
    assert [int(cache.length) for cache in caches] == [LENGTH] * LAYERS


@pytest.mark.slow
def test_generation_takes_the_most_likely_token_of_each_full_pass(mirror, tokens):
    whole = tokens
    for _ in range(NEW):
        logits = numpy(mirror.model(mirror.array(whole)).output)
        whole = np.concatenate([whole, logits[:, -1:].argmax(-1).astype(np.int32)], axis=1)
    found = mirror.models.generate(mirror.model, mirror.array(tokens), NEW)
    np.testing.assert_array_equal(numpy(found), whole[:, LENGTH:])


def test_generation_in_both_mirrors_equals_transformers(mirrors, gpt2, padded):
    tokens, mask = padded
    for seen in (None, mask):
        there = np.ones_like(tokens) if seen is None else seen[:, 0, 0].astype(np.int32)
        expected = gpt2.generate(
            torch.from_numpy(tokens).long(),
            attention_mask=torch.from_numpy(there).long(),
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )[:, LENGTH:]
        for mirror in mirrors.values():
            shown = None if seen is None else mirror.array(seen)
            found = mirror.models.generate(mirror.model, mirror.array(tokens), NEW, shown)
            np.testing.assert_array_equal(numpy(found), numpy(expected))


@pytest.mark.slow
def test_left_padding_changes_nothing(mirror, padded):
    tokens, mask = padded
    found = mirror.models.generate(mirror.model, mirror.array(tokens), NEW, mirror.array(mask))
    alone = mirror.models.generate(mirror.model, mirror.array(tokens[1:, 3:].copy()), NEW)
    np.testing.assert_array_equal(numpy(found)[1:], numpy(alone))
    seen = mirror.models.generate(mirror.model, mirror.array(tokens), NEW)
    assert not np.array_equal(numpy(seen)[1:], numpy(alone))


def test_single_token_is_the_first_of_many(mirror, tokens):
    one, many = (mirror.models.generate(mirror.model, mirror.array(tokens), n) for n in (1, NEW))
    np.testing.assert_array_equal(numpy(one), numpy(many)[:, :1])


def test_generation_keeps_the_mode_of_the_model(mirrors, tokens):
    model = mirrors["torch"].model.train()
    torch_models.generate(model, torch.from_numpy(tokens), 1)
    assert model.training
    model.eval()


def refusals(mirror, tokens):
    """Calls that raise, each with a pattern of its message."""
    m, array, model = mirror.package, mirror.array, mirror.model
    given = array(tokens)
    caches = (m.GrowingCache(),) * LAYERS
    long = array(np.zeros((1, 12), np.int32))
    late = array(np.arange(5, 5 + LENGTH))
    nothing = array(np.zeros((1, 0), np.int32))
    read = model(given, caches=caches).caches
    return [
        (lambda: model(given[0]), "tokens must have shape (batch, length), got (7,)"),
        (lambda: model(long), "positions from 0 to below max_len=11, got 0 to 11"),
        (lambda: model(given, positions=late), "got 5 to 11"),
        (lambda: model(given, positions=late[:3]), "positions must have shape (7,) or (2, 7), got (3,)"),
        (lambda: model(given, caches=caches[:1]), "caches must be one for each of 2 layers, got 1"),
        (lambda: model(given, caches=read), "got 7 to 13"),
        (
            lambda: model(given, array(np.ones((7, 7), bool)), caches=caches),
            "mask with two axes must have shape (batch, length) = (2, 7), got (7, 7)",
        ),
        (lambda: mirror.models.generate(model, given[0], 1), "inputs must have shape"),
        (lambda: mirror.models.generate(model, given, 5), "at most max_len=11 together, got 12"),
        (lambda: mirror.models.generate(model, given, 0), "num_tokens must be at least 1, got 0"),
        (lambda: mirror.models.generate(model, nothing, 1), "length must be at least 1, got 0"),
        (
            lambda: mirror.models.generate(model, given, 1, array(np.ones((7, 7), bool))),
            "a mask of (query, key) is given as (1, query, key)",
        ),
    ]


def test_bad_input_raises_the_same_error_in_both(mirrors, tokens, as_shipped):
    messages = {}
    for name, mirror in mirrors.items():
        for call, part in refusals(mirror, tokens):
            with pytest.raises(ValueError, match=re.escape(part)) as caught:
                call()
            messages.setdefault(part, {})[name] = str(caught.value)
    assert all(found["torch"] == found["jax"] for found in messages.values())
