"""Speech models: a mask of frames removes the influence of padding, as if the sound were passed without it."""

import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention.models as jax_models
import torch_attention.models as torch_models
from attention_bridge.weights import transfer
from parity_tests.helpers.built import MIRRORS

FRAMES, FEATURES = 12, 5


def numpy(x):
    return np.array(x.tolist())


def made(models, **options):
    stack = models.StackConfig(1, 2, 6)
    special = models.SpecialTokens(eos=3, pad=0, bos=1)
    config = models.SpeechConfig(11, FEATURES, 8, stack, stack, 6, 7, special_tokens=special)
    return models.SpeechTransformer(config, **options)


@pytest.fixture(scope="module")
def pair():
    """The model in both mirrors, with the same weights."""
    torch.manual_seed(0)
    model = made(torch_models).eval()
    return {"torch": model, "jax": transfer(model, made(jax_models, rngs=nnx.Rngs(0)))}


@pytest.fixture
def sound(rng):
    return rng.standard_normal((2, FRAMES, FEATURES)).astype(np.float32)


TOKENS = np.array([[1, 4, 5], [1, 6, 7]])


def padded(sound, real, junk):
    """The sound with `junk` after its real frames, and the mask of frames."""
    x = sound.copy()
    x[:, real:] = junk
    return x, np.stack([np.arange(FRAMES) < real] * 2)


@pytest.mark.parametrize("mirror", MIRRORS)
@pytest.mark.parametrize("real", [1, 6, 7])
def test_padding_frames_have_no_influence(pair, sound, mirror, real):
    model, array = pair[mirror], MIRRORS[mirror].array
    alone = model(array(sound[:, :real]), array(TOKENS)).logits
    kept = (real + 1) // 2
    for junk in (0.0, 7.0, np.nan):
        x, mask = padded(sound, real, junk)
        for given in (mask, mask.astype(np.int32), mask[:, None, None]):
            found = model(array(x), array(TOKENS), array(given))
            np.testing.assert_allclose(numpy(found.logits), numpy(alone), atol=2e-6)
    read = model.encode(array(x), array(mask)).output
    expected = model.encode(array(sound[:, :real])).output
    np.testing.assert_allclose(numpy(read)[:, :kept], numpy(expected), atol=2e-6)
    run = model.run(array(x), array(TOKENS), array(mask), need_weights=False).logits
    np.testing.assert_allclose(numpy(run), numpy(alone), atol=2e-6)
    if real % 2 == 0:  # a mask of positions cannot express that half of a position is padding
        positions = np.stack([np.arange(FRAMES // 2) < kept] * 2)
        for given in (positions, positions.astype(np.int32), positions[:, None, None]):
            found = model(array(x), array(TOKENS), array(given))
            np.testing.assert_allclose(numpy(found.logits), numpy(alone), atol=2e-6)


@pytest.mark.parametrize("mirror", MIRRORS)
def test_each_sound_of_a_batch_has_its_own_length(pair, sound, mirror):
    model, array = pair[mirror], MIRRORS[mirror].array
    lengths = (5, 11)
    mask = np.arange(11)[None] < np.array(lengths)[:, None]  # an odd number of frames
    found = numpy(model(array(sound[:, :11]), array(TOKENS), array(mask)).logits)
    for row, length in enumerate(lengths):
        alone = model(array(sound[row : row + 1, :length]), array(TOKENS[row : row + 1])).logits
        np.testing.assert_allclose(found[row : row + 1], numpy(alone), atol=2e-6)


@pytest.mark.parametrize("mirror", MIRRORS)
def test_generation_takes_a_mask_of_frames(pair, sound, mirror):
    models = {"torch": torch_models, "jax": jax_models}[mirror]
    model, array = pair[mirror], MIRRORS[mirror].array
    x, mask = padded(sound, 7, 9.0)
    found = models.generate(model, array(x), 3, array(mask))
    assert numpy(found).tolist() == numpy(models.generate(model, array(sound[:, :7]), 3)).tolist()
    found = models.beam_search(model, array(x[:1]), 3, array(mask[:1]))
    alone = models.beam_search(model, array(sound[:1, :7]), 3)
    assert numpy(found.tokens).tolist() == numpy(alone.tokens).tolist()
    np.testing.assert_allclose(numpy(found.scores), numpy(alone.scores), atol=2e-6)


def test_position_is_real_if_one_of_its_frames_is(pair, sound):
    """Frames 2j and 2j + 1 make position j."""
    mask = np.zeros((2, FRAMES), bool)
    mask[:, [0, 5, 6, 7]] = True
    expected = np.array([True, False, True, True, False, False])
    for mirror, model in pair.items():
        array = MIRRORS[mirror].array
        weights = model.run(array(sound), array(TOKENS), array(mask)).cross_weights[0]
        assert ((numpy(weights) > 0).all((0, 1, 2)) == expected).all()


@pytest.mark.parametrize("mirror", MIRRORS)
def test_masks_that_fit_neither_frames_nor_positions_raise(pair, sound, mirror):
    model, array = pair[mirror], MIRRORS[mirror].array
    message = (
        r"source_mask must have shape \(batch, frames\) = \(2, 12\), or \(2, 6\) for the positions after the "
        r"convolutions, got \(2, 7\)"
    )
    with pytest.raises(ValueError, match=message):
        model(array(sound), array(TOKENS), array(np.ones((2, 7), bool)))
    with pytest.raises(ValueError, match=r"source_mask with two axes must have shape .*, got \(3, 12\)"):
        model(array(sound), array(TOKENS), array(np.ones((3, FRAMES), bool)))
    with pytest.raises(ValueError, match="source_mask must have shape"):
        model(array(sound), array(TOKENS), array(np.ones((2, 1, FRAMES), bool)))
    with pytest.raises(TypeError, match="source_mask must be boolean or integers 0 and 1"):
        model(array(sound), array(TOKENS), array(np.full((2, FRAMES), 2)))
    with pytest.raises(TypeError, match="source_mask must be boolean or integers 0 and 1"):
        model(array(sound), array(TOKENS), array(np.ones((2, FRAMES), np.float32)))
