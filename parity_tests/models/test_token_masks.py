"""Masks of models: two axes are (batch, length), boolean or 0 and 1, as tokenizers return them."""

import re

import numpy as np
import pytest
import torch
from flax import nnx

import torch_attention.models
from attention_bridge.catalogue.part import build
from attention_bridge.pretrained.families.describe import Heads, language_model
from parity_tests.helpers import described
from parity_tests.helpers.built import each_mirror, each_mirror_slow_in_jax
from parity_tests.helpers.translators import translator

BATCH, LENGTH, VOCAB = 2, 5, 11
SIZES = {"vocab_size": VOCAB, "embed_dim": 12, "num_heads": 3, "num_layers": 1, "ffn_dim": 13, "max_len": 7}
THERE = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
PAIRS = np.ones((LENGTH, LENGTH), bool)
AS_GIVEN = (THERE.astype(bool), THERE.astype(np.int64), THERE.astype(np.uint8))


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def made(mirror, name):
    """A model that takes one text."""
    m, factory = mirror.package.models, {} if mirror.name == "torch" else {"rngs": nnx.Rngs(0)}
    if name == "Encoder":
        return m.Encoder(m.EncoderConfig(**SIZES), **factory)
    if name == "Decoder":
        return m.Decoder(m.DecoderConfig(**SIZES), **factory)
    spec = described.rotary(Heads(12, 4, 2, 6), vocab_size=VOCAB, num_layers=1, ffn_dim=13)
    return build(language_model(spec), mirror.package.__name__, factory)


@pytest.mark.parametrize("name", ["Encoder", "Decoder", "LanguageModel"])
@each_mirror
def test_mask_of_two_axes_marks_the_real_tokens(mirror, name, rng):
    model = made(mirror, name)
    tokens = mirror.array(rng.integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32))
    right = numpy(model(tokens, mirror.array(THERE.astype(bool)[:, None, None])).output)
    for given in AS_GIVEN:
        np.testing.assert_array_equal(numpy(model(tokens, mirror.array(given)).output), right)
    assert np.abs(numpy(model(tokens).output) - right)[1].max() > 1e-3
    pairs = np.tri(LENGTH, dtype=bool)
    whole = numpy(model(tokens, mirror.array(pairs[None])).output)
    assert np.array_equal(whole, numpy(model(tokens, mirror.array(pairs[None, None])).output))


@pytest.mark.parametrize("name", ["SimpleSeq2Seq", "EncoderDecoder", "RelativeEncoderDecoder", "Luong, dot"])
@each_mirror
def test_translators_take_four_positional_arguments(mirror, name, rng):
    """`model(src_tokens, tgt_tokens, src_mask, tgt_mask)` with masks `tokens != pad`."""
    model = translator(name, mirror.package, **({} if mirror.name == "torch" else {"rngs": nnx.Rngs(0)}))
    source = rng.integers(1, 9, (BATCH, LENGTH)).astype(np.int32) * THERE.astype(np.int32)
    target = rng.integers(1, 9, (BATCH, LENGTH + 1)).astype(np.int32)
    target[1, 4:] = 0
    source, target = mirror.array(source), mirror.array(target)
    found = numpy(model(source, target, source != 0, target != 0)[0])
    right = numpy(model(source, target, (source != 0)[:, None, None], (target != 0)[:, None, None])[0])
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("name", ["SimpleSeq2Seq", "EncoderDecoder", "RelativeEncoderDecoder", "Luong, dot"])
@each_mirror_slow_in_jax
def test_source_may_be_padded_on_either_side(mirror, name, rng):
    model = translator(name, mirror.package, **({} if mirror.name == "torch" else {"rngs": nnx.Rngs(0)}))
    behind = rng.integers(1, 9, (BATCH, LENGTH)).astype(np.int32) * THERE.astype(np.int32)
    front = behind.copy()
    front[1] = np.roll(behind[1], 2)
    marks = {"start_token": 1, "eos_token": (), "pad_token": 0}
    generate, beam_search = mirror.package.models.generate, mirror.package.models.beam_search
    alone = mirror.array(behind[1:, :3].copy())
    expected, beams = generate(model, alone, 4, **marks), beam_search(model, alone, 3, num_beams=2, **marks)
    for given in (behind, front):
        source = mirror.array(given)
        found = generate(model, source, 4, source != 0, **marks)
        np.testing.assert_array_equal(numpy(found)[1:], numpy(expected))
        searched = beam_search(model, source, 3, source != 0, num_beams=2, **marks)
        assert np.abs(numpy(searched.scores)[1:] - numpy(beams.scores)).max() < 1e-5
    one = beam_search(model, alone, 3, alone != 0, num_beams=2, **marks)  # a mask of one text, for two beams
    np.testing.assert_array_equal(numpy(one.tokens), numpy(beams.tokens))


@pytest.mark.parametrize("name", ["SimpleSeq2Seq", "EncoderDecoder", "RelativeEncoderDecoder", "Luong, dot"])
@pytest.mark.parametrize("search", ["generate", "beam_search"])
@each_mirror
def test_sources_and_start_tokens_outside_the_vocabulary_raise(mirror, search, name):
    model = translator(name, mirror.package, **({} if mirror.name == "torch" else {"rngs": nnx.Rngs(0)}))
    write, size = getattr(mirror.package.models, search), model.num_source_tokens
    source = np.full((BATCH, LENGTH), 1, np.int32)
    with pytest.raises(ValueError, match=r"start_token must be |tgt_tokens must be |target must be "):
        write(model, mirror.array(source), 2, start_token=500)
    source[1, 2] = size
    with pytest.raises(ValueError, match=f"inputs must be from 0 to below {size}, got 1 to {size}"):
        write(model, mirror.array(source), 2, start_token=1)


@each_mirror
def test_integer_masks_may_have_more_axes_and_other_ranks_raise(mirror, rng, as_shipped):
    model, tokens = (
        made(mirror, "Encoder"),
        mirror.array(rng.integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32)),
    )
    pairs = np.tri(LENGTH, dtype=np.int64)[None]
    found = numpy(model(tokens, mirror.array(pairs)).output)
    np.testing.assert_array_equal(found, numpy(model(tokens, mirror.array(pairs.astype(bool))).output))
    for mask in (THERE[0], THERE[:, None, None, None]):
        with pytest.raises(
            ValueError, match=r"mask must have shape \(batch, length\) = \(2, 5\), \(batch, query, key\)"
        ):
            model(tokens, mirror.array(mask.astype(bool)))


@each_mirror
def test_generation_takes_masks_of_two_axes(mirror, rng):
    model, tokens = made(mirror, "Decoder"), rng.integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32)
    there = THERE[:, ::-1].copy()
    generate = mirror.package.models.generate
    found = generate(model, mirror.array(tokens), 2, mirror.array(there))
    right = generate(model, mirror.array(tokens), 2, mirror.array(there.astype(bool)[:, None, None]))
    np.testing.assert_array_equal(numpy(found), numpy(right))


@pytest.mark.parametrize(
    ("mask", "exception", "text"),
    [
        (PAIRS, ValueError, "mask with two axes must have shape (batch, length) = (2, 5), got (5, 5)"),
        (PAIRS, ValueError, "a mask of (query, key) is given as (1, query, key)"),
        (2 * THERE, TypeError, "integers 0 and 1 (True or 1: the token is there), got integers from 0 to 2"),
        (THERE.astype(np.float32), TypeError, "got float32; convert it with mask.bool() or mask.astype(bool)"),
        (np.tri(LENGTH, dtype=np.float32)[None], TypeError, ".bool() or .astype(bool) converts it"),
        (2 * THERE[:, None, None], TypeError, "integers 0 and 1"),
    ],
)  # fmt: skip
@each_mirror
def test_other_masks_raise_the_same_error(mirror, mask, exception, text):
    tokens = mirror.array(np.zeros((BATCH, LENGTH), np.int32))
    for name in ("Encoder", "LanguageModel"):
        with pytest.raises(exception, match=re.escape(text)):
            made(mirror, name)(tokens, mirror.array(mask))


@each_mirror
def test_ambiguous_mask_shape_warns(mirror):
    tokens = mirror.array(np.zeros((LENGTH, LENGTH), np.int32))
    with pytest.warns(FutureWarning, match=r"mask of shape \(5, 5\) is read as \(batch, length\)"):
        made(mirror, "Encoder")(tokens, mirror.array(np.ones((LENGTH, LENGTH), bool)))


@pytest.mark.parametrize("name", ["LinearAttention", "DeltaNet"])
@each_mirror
def test_classes_with_key_masks_name_padding_mask(mirror, name):
    factory = {} if mirror.name == "torch" else {"rngs": nnx.Rngs(0)}
    layer = getattr(mirror.package, name)(8, 2, **factory)
    x = mirror.array(np.zeros((BATCH, LENGTH, 8), np.float32))
    with pytest.raises(ValueError, match="padding_mask"):
        layer(x, mirror.array(THERE.astype(bool)))


@each_mirror
def test_hidden_states_are_the_inputs_of_each_layer(mirror, rng):
    tokens = mirror.array(rng.integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32))
    for name in ("Encoder", "Decoder", "LanguageModel"):
        model = made(mirror, name)
        model.eval()
        found = model(tokens, need_hidden_states=True)
        assert len(found.hidden_states) == 1 + len(model.layers)
        first, last = found.hidden_states
        layer, (dim,) = model.layers[0], {numpy(x).shape[-1] for x in (first, last)}
        assert dim == 12
        call = {"positions": None, "position": None, "memory": None, "reads_on": False, "need_weights": False}
        given = layer(first, **call) if name == "LanguageModel" else layer(first)
        np.testing.assert_allclose(numpy(given.output), numpy(last), rtol=1e-5, atol=1e-6)
        if name == "Encoder":
            assert np.array_equal(numpy(last), numpy(found.last_hidden_state))
        else:
            read = model.read(tokens).last_hidden_state
            normed = mirror.package.norms.normalise(model.final_norm, last)
            np.testing.assert_allclose(numpy(normed), numpy(read), rtol=1e-5, atol=1e-6)
        assert model(tokens).hidden_states is None


@pytest.mark.slow  # PyTorch cannot compile the tests' shape checks
@pytest.mark.parametrize("batch", [BATCH, LENGTH])
def test_compiled_model_takes_masks_in_one_graph(batch):
    m = torch_attention.models
    model = m.Encoder(m.EncoderConfig(**SIZES)).eval()
    tokens, mask = (
        torch.zeros(batch, LENGTH, dtype=torch.long),
        torch.tensor(THERE[:1]).expand(batch, LENGTH) > 0,
    )
    found = torch.compile(model, fullgraph=True, backend="eager")(tokens, mask).output
    torch.testing.assert_close(found, model(tokens, mask[:, None, None]).output)
