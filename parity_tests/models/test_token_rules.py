"""Rules on the next token: suppressed tokens and timestamps, against the logits processors of transformers."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

import jax_attention.models as jax_models
import torch_attention.models as torch_models
from attention_bridge.pretrained import load_pretrained

MODELS = {"torch": (torch_models, torch.from_numpy), "jax": (jax_models, jnp.asarray)}
VOCAB, END, FIRST = 29, 11, 17  # text below 11, other special tokens from 11 on, timestamps from 17 on
START = [12, 14]
SUPPRESSED, SUPPRESSED_FIRST = (3, 13), (5, END)
LENGTH = 13
each_mirror = pytest.mark.parametrize("mirror", MODELS)
RULES = {
    "none": {},
    "suppressed": {"suppressed": SUPPRESSED, "suppressed_first": SUPPRESSED_FIRST},
    "timestamps": {"timestamps": None},
    "all, at most one second": {
        "suppressed": SUPPRESSED,
        "suppressed_first": SUPPRESSED_FIRST,
        "timestamps": 3,
    },
}
each_rule = pytest.mark.parametrize("name", RULES)


def rules(models, name):
    """The rules of the mirrors."""
    given = dict(RULES[name])
    if "timestamps" in given:
        given["timestamps"] = models.Timestamps(FIRST, END, max_first=given["timestamps"])
    return models.TokenRules(**given)


def processors(name):
    """The reference's logits processors of the same rules, in its order."""
    given, begin = RULES[name], len(START)
    found = []
    if "suppressed" in given:
        found.append(SuppressTokensAtBeginLogitsProcessor(given["suppressed_first"], begin))
        found.append(SuppressTokensLogitsProcessor(given["suppressed"]))
    if "timestamps" in given:
        config = transformers.GenerationConfig(eos_token_id=END)
        config.no_timestamps_token_id = FIRST - 1
        config.max_initial_timestamp_index = given["timestamps"]
        found.append(WhisperTimeStampLogitsProcessor(config, begin_index=begin))
    return found


def processed(name, tokens, scores):
    """The reference's scores after tokens `(rows, count)`."""
    scores = torch.from_numpy(scores)
    prompt = torch.tensor([START] * len(tokens))
    for each in processors(name):
        scores = each(torch.cat([prompt, torch.from_numpy(tokens)], 1), scores)
    return scores.numpy()


def text(rng, rows, count):
    """Random texts in which many tokens are timestamps, which do not decrease."""
    tokens = rng.integers(0, END, (rows, count))
    stamps = np.sort(rng.integers(FIRST, VOCAB - 4, (rows, count)), axis=1)
    return np.where(rng.random((rows, count)) < 0.6, stamps, tokens)


@each_mirror
@each_rule
def test_scores_equal_those_of_the_reference_after_any_text(mirror, name, rng):
    models, array = MODELS[mirror]
    for count in range(6):
        tokens = text(rng, 40, count)
        scores = rng.standard_normal((40, VOCAB)).astype(np.float32)
        slots = np.concatenate([tokens, rng.integers(FIRST, VOCAB, (40, 8 - count))], 1).astype(np.int32)
        found = rules(models, name).apply(array(scores), array(slots), array(np.array(count, np.int32)))
        np.testing.assert_array_equal(np.asarray(found.tolist(), np.float32), processed(name, tokens, scores))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A tiny Whisper whose scores are far apart, and its directory."""
    torch.manual_seed(3)
    config = transformers.WhisperConfig(
        vocab_size=VOCAB, num_mel_bins=5, d_model=12, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=3, decoder_attention_heads=2, encoder_ffn_dim=20, decoder_ffn_dim=22,
        max_source_positions=9, max_target_positions=24, pad_token_id=END, bos_token_id=END, eos_token_id=END,
        decoder_start_token_id=START[0], suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.normal_(std=0.6)
    directory = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(directory)
    return model.double(), directory


def frames(rng):
    return rng.standard_normal((4, 18, 5)).astype(np.float32)


def reference_scores(model, sound, tokens):
    """Float64 logits of the next token after tokens `(rows, count)`."""
    prompt = torch.tensor([START] * len(tokens))
    with torch.no_grad():
        written = torch.cat([prompt, torch.from_numpy(tokens)], 1)
        features = torch.from_numpy(sound).transpose(1, 2).double()
        return model(input_features=features, decoder_input_ids=written).logits[:, -1].numpy()


@each_mirror
@each_rule
def test_greedy_generation_equals_the_reference(mirror, name, whisper, rng):
    reference, directory = whisper
    models, array = MODELS[mirror]
    sound = frames(rng)
    expected = np.zeros((len(sound), 0), int)
    for _ in range(LENGTH):
        scores = processed(name, expected, reference_scores(reference, sound, expected))
        ended = (expected == END).any(1)
        expected = np.concatenate([expected, np.where(ended, END, scores.argmax(1))[:, None]], 1)
    found = models.generate(
        load_pretrained(directory, mirror), array(sound), LENGTH, start_token=START, eos_token=END,
        pad_token=END, rules=rules(models, name),
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(found.tolist()), expected)


def plain_beam(reference, name, sound, num_beams):
    """Beam search in lists and loops with the reference's scores and processors; the best sequence."""
    live, found = [((), 0.0)], []
    for length in range(1, LENGTH + 1):
        written = np.array([tokens for tokens, _ in live], int).reshape(len(live), length - 1)
        scores = reference_scores(reference, np.repeat(sound[None], len(live), 0), written)
        scores = processed(name, written, torch.log_softmax(torch.from_numpy(scores), -1).numpy())
        grown = [
            ((*tokens, token), total + row[token])
            for (tokens, total), row in zip(live, scores, strict=True)
            for token in range(VOCAB)
        ]
        found += [(tokens, total / length) for tokens, total in grown if tokens[-1] == END]
        going_on = [each for each in grown if each[0][-1] != END]
        live = sorted(going_on, key=lambda each: -each[1])[:num_beams]
    found += [(tokens, total / LENGTH) for tokens, total in live]
    best = max(found, key=lambda each: each[1])
    return [*best[0], *[END] * (LENGTH - len(best[0]))], best[1]


@each_mirror
@each_rule
def test_beam_search_equals_a_plain_search_with_the_reference_scores(mirror, name, whisper, rng):
    reference, directory = whisper
    models, array = MODELS[mirror]
    sound = frames(rng)
    found = models.beam_search(
        load_pretrained(directory, mirror), array(sound), LENGTH, num_beams=3, start_token=START,
        eos_token=END, pad_token=END, rules=rules(models, name),
    )  # fmt: skip
    for row, tokens, score in zip(sound, found.tokens.tolist(), found.scores.tolist(), strict=True):
        expected, total = plain_beam(reference, name, row, 3)
        assert tokens[0] == expected
        assert abs(score[0] - total) < 1e-4


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_generation_with_timestamps_equals_generate_of_transformers(framework, whisper, rng):
    reference, directory = whisper
    models, array = MODELS[framework]
    sound = frames(rng)
    reference.generation_config.no_timestamps_token_id = FIRST - 1
    reference.generation_config.max_initial_timestamp_index = 3
    expected = transformers.GenerationMixin.generate(
        reference,
        torch.from_numpy(sound).transpose(1, 2).double(),
        decoder_input_ids=torch.tensor([START] * len(sound)),
        logits_processor=transformers.LogitsProcessorList(processors("all, at most one second")),
        max_new_tokens=LENGTH,
        do_sample=False,
        num_beams=1,
    )[:, len(START) :].numpy()
    found = models.generate(
        load_pretrained(directory, framework), array(sound), LENGTH, start_token=START, eos_token=END,
        pad_token=END, rules=rules(models, "all, at most one second"),
    )  # fmt: skip
    found = np.asarray(found.tolist())
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    assert (found[:, expected.shape[1] :] == END).all()


@each_mirror
def test_token_outside_the_vocabulary_raises(mirror, rng):
    models, array = MODELS[mirror]
    given = [array(x) for x in (np.zeros((2, 5), np.float32), np.zeros((2, 3), np.int32), np.array(0))]
    with pytest.raises(ValueError, match="suppressed must be below vocab_size=5, got 7"):
        models.TokenRules(suppressed=(1, 7)).apply(*given)
    with pytest.raises(ValueError, match="first_timestamp must be below vocab_size=5, got 9"):
        models.TokenRules(timestamps=models.Timestamps(9, 2)).apply(*given)
