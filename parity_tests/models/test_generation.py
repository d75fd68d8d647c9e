"""Sampling: the same draws give the same tokens in both mirrors, from the distributions of transformers."""

from copy import deepcopy
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from flax import nnx
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import jax_attention
import jax_attention.models
import torch_attention
import torch_attention.models
from attention_bridge.parity.comparison import error
from attention_bridge.weights import transfer
from parity_tests.helpers import described
from parity_tests.helpers.built import MIRRORS
from parity_tests.helpers.refusals import Case, assert_refused

BATCH, LENGTH, NEW, VOCAB = 3, 5, 6, 17
SIZES = {"vocab_size": VOCAB, "embed_dim": 12, "num_heads": 3, "num_layers": 2, "ffn_dim": 13, "max_len": 11}
UNIT = 2.0**-24
each_mirror = pytest.mark.parametrize("mirror", MIRRORS.values(), ids=MIRRORS)


def language_model(name, m, **f):
    """The smallest language model of a checkpoint family."""
    if name == "Decoder":
        return m.Decoder(m.DecoderConfig(**SIZES), **f)
    heads, sizes = described.Heads(12, 4, 2, 6), {"vocab_size": VOCAB, "num_layers": 2, "ffn_dim": 13}
    spec = {
        "rotary": lambda: described.rotary(heads, windows=(3, None), **sizes),
        "parallel": lambda: described.parallel(heads, 2, **sizes),
        "latent": lambda: described.latent((12, 3, 5, 4, 3, 2, 7), **sizes),
    }[name]()
    return described.made(spec, m, f)


FAMILIES = ("Decoder", "rotary", "parallel", "latent")


@cache
def models(name):
    """The model of both mirrors with the same weights."""
    ours = language_model(name, torch_attention.models).eval()
    rng = np.random.default_rng(5)
    with torch.no_grad():
        for key, x in ours.named_parameters():
            centre = 1.0 if key.endswith("norm.weight") else 0.0
            x.copy_(torch.from_numpy(centre + 0.5 * rng.standard_normal(tuple(x.shape))))
    theirs = language_model(name, jax_attention.models, rngs=nnx.Rngs(0))
    theirs.eval()
    return {"torch": ours, "jax": transfer(ours, theirs)}


@pytest.fixture
def prompt(rng):
    """Tokens, and a mask: the second text is left-padded."""
    mask = np.ones((BATCH, 1, 1, LENGTH), bool)
    mask[1, ..., :2] = False
    return rng.integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32), mask


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def generated(mirror, name, prompt, draws=None, **options):
    tokens, mask = map(mirror.array, prompt)
    draws = None if draws is None else mirror.array(draws)
    return numpy(
        mirror.package.models.generate(models(name)[mirror.name], tokens, NEW, mask, draws=draws, **options)
    )


def warped(scores, temperature, top_k, top_p):
    """The scores after the filters of transformers."""
    scores = torch.from_numpy(scores)
    for given, warper in (
        (temperature, TemperatureLogitsWarper),
        (top_k, TopKLogitsWarper),
        (top_p, TopPLogitsWarper),
    ):
        scores = scores if given is None else warper(given)(None, scores)
    return scores.numpy()


FILTERS = [
    (0.7, None, None),
    (1.0, 4, None),
    (1.0, None, 0.8),
    (1.3, 5, 0.6),
    (0.5, 40, 0.01),
    (1.0, 1, 1.0),
]


@each_mirror
@pytest.mark.parametrize(("temperature", "top_k", "top_p"), FILTERS)
def test_filters_keep_the_scores_that_transformers_keeps(mirror, rng, temperature, top_k, top_p):
    scores = (3 * rng.standard_normal((7, VOCAB))).astype(np.float32)
    expected = warped(scores, temperature, top_k, top_p)
    found = numpy(mirror.package.models.filter_scores(mirror.array(scores), temperature, top_k, top_p))
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected))
    left = np.isfinite(expected)
    assert error(found[left], expected[left]) <= 2 * UNIT
    assert left.sum() < left.size or (top_k, top_p) == (None, None)


@each_mirror
def test_lower_token_is_kept_among_equal_scores(mirror):
    scores = mirror.array(np.zeros((1, 5), np.float32))
    found = numpy(mirror.package.models.filter_scores(scores, 1.0, None, 0.5))
    np.testing.assert_array_equal(np.isfinite(found), [[True, True, True, False, False]])
    found = numpy(mirror.package.models.filter_scores(scores, 1.0, 2, None))
    assert np.isfinite(found).all()  # all are tied with the second


@pytest.mark.parametrize(
    "name", ["Decoder", *(pytest.param(x, marks=pytest.mark.slow) for x in FAMILIES[1:])]
)
def test_same_draws_give_the_same_tokens_in_both_mirrors(name, prompt, rng):
    draws = rng.random((NEW, BATCH)).astype(np.float32)
    options = {"temperature": 1.5, "top_k": 9, "top_p": 0.95}
    ours, theirs = (generated(mirror, name, prompt, draws, **options) for mirror in MIRRORS.values())
    np.testing.assert_array_equal(ours, theirs)
    greedy = generated(MIRRORS["torch"], name, prompt)
    assert not np.array_equal(ours, greedy)


@pytest.mark.parametrize("name", ["rotary", *(pytest.param(x, marks=pytest.mark.slow) for x in FAMILIES[2:])])
@each_mirror
def test_language_models_generate_the_most_likely_token_of_the_full_pass(name, mirror, prompt):
    found = generated(mirror, name, prompt)
    model = models(name)["torch"]
    for text in range(BATCH):
        tokens = prompt[0][text][prompt[1][text, 0, 0]]
        for token in found[text]:
            with torch.no_grad():
                logits = model(torch.from_numpy(tokens[None].copy())).output[0, -1]
            assert int(logits.argmax()) == token
            tokens = np.append(tokens, token)


@each_mirror
def test_each_draw_picks_by_the_inverse_of_the_distribution(mirror, prompt, rng):
    """Token by token in float64, from the logits of full passes and the filters of transformers."""
    draws = rng.random((NEW, BATCH)).astype(np.float32)
    found = generated(mirror, "Decoder", prompt, draws, temperature=1.5, top_k=9, top_p=0.95)
    model = models("Decoder")["torch"]
    for text in range(BATCH):
        tokens = prompt[0][text][prompt[1][text, 0, 0]]
        for draw, token in zip(draws[:, text], found[text], strict=True):
            with torch.no_grad():
                logits = model(torch.from_numpy(tokens[None].copy())).output[0, -1:].double().numpy()
            scores = warped(logits, 1.5, 9, 0.95)[0]
            summed = np.cumsum(np.exp(scores - scores.max()))
            assert np.searchsorted(summed, draw * summed[-1], side="right") == token
            tokens = np.append(tokens, token)


@pytest.mark.slow
@each_mirror
def test_many_draws_follow_the_distribution(mirror, rng):
    scores = np.array([0.3, -np.inf, 2.0, 1.0, -1.0], np.float32)
    count = 1000
    draws = ((np.arange(count) + 0.5) / count).astype(np.float32)
    pick = mirror.package.models.sampling.pick
    tokens = numpy(pick(mirror.array(np.broadcast_to(scores, (count, 5)).copy()), mirror.array(draws)))
    expected = np.exp(scores) / np.exp(scores).sum()
    found = np.bincount(tokens, minlength=5) / count
    assert np.abs(found - expected).max() <= 1 / count
    edges = np.array([0.0, 1 - 2.0**-24], np.float32)
    ends = numpy(pick(mirror.array(np.stack([scores[::-1], scores[::-1]])), mirror.array(edges)))
    np.testing.assert_array_equal(ends, [0, 4])
    hidden = np.array([[-np.inf, 0.0, 0.0, -np.inf]] * 2, np.float32)
    np.testing.assert_array_equal(numpy(pick(mirror.array(hidden), mirror.array(edges))), [1, 2])


@each_mirror
def test_padding_follows_the_end_token(mirror, prompt):
    free = generated(mirror, "Decoder", prompt)
    stop = int(free[0, 1])
    found = generated(mirror, "Decoder", prompt, eos_token=stop, pad_token=16)
    for before, after in zip(free, found, strict=True):
        places = np.flatnonzero(before == stop)
        end = places[0] + 1 if len(places) else NEW
        np.testing.assert_array_equal(after[:end], before[:end])
        assert (after[end:] == 16).all()
    assert (found == 16).any()


@each_mirror
def test_low_temperature_takes_the_most_likely_token(mirror, prompt, rng):
    draws = rng.random((NEW, BATCH)).astype(np.float32)
    cold = generated(mirror, "Decoder", prompt, draws, temperature=1e-4)
    np.testing.assert_array_equal(cold, generated(mirror, "Decoder", prompt))


def go_on(m, *, shape=(2, 3), num_tokens=4, draws=None, **options):
    """A call of `generate` with a model that has room for 11 tokens."""
    model = m.Decoder(m.DecoderConfig(**SIZES))
    draws = None if draws is None else m.array(draws)
    return partial(m.generate, model, m.ones(*shape, dtype=np.int32), num_tokens, draws=draws, **options)


HALVES = np.full((4, 2), 0.5, np.float32)
NO_DRAWS = (
    "seed must be given with a temperature above 0, or draws of shape (num_tokens, batch) = (4, 2), got None"
)
REFUSED = [
    Case(f"{options}", partial(go_on, **options), ValueError, text)
    for options, text in (
        ({"num_tokens": 0}, "num_tokens must be at least 1, got 0"),
        ({"shape": (3,)}, "inputs must have shape (batch, length, ...), got (3,)"),
        ({"num_tokens": 9}, "tokens and num_tokens must be at most max_len=11 together, got 12"),
        ({"temperature": -0.5}, "temperature must be at least 0 and finite, got -0.5"),
        ({"temperature": float("nan")}, "temperature must be finite, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"temperature": 1.0}, NO_DRAWS),
        ({"draws": HALVES}, "draws must be None with temperature=0, which takes the likeliest token"),
        (
            {"draws": HALVES.T, "temperature": 1.0},
            "draws must have batch=2 as the others, got (2, 4)",
        ),
        ({"draws": 2 * HALVES, "temperature": 1.0}, "draws must be at least 0 and below 1, got 1.0 to 1.0"),
    )
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name[:40])
def test_bad_input_raises(case, as_shipped):
    assert_refused(case)


SEEDED = {"temperature": 1.5, "top_k": 9, "seed": 7}


def test_seed_gives_the_same_tokens_in_both_mirrors(prompt):
    ours, theirs = (generated(mirror, "Decoder", prompt, **SEEDED) for mirror in MIRRORS.values())
    np.testing.assert_array_equal(ours, theirs)
    draws = np.random.default_rng(7).random((NEW, BATCH), np.float32)
    given = generated(MIRRORS["torch"], "Decoder", prompt, draws, temperature=1.5, top_k=9)
    np.testing.assert_array_equal(ours, given)
    assert not np.array_equal(ours, generated(MIRRORS["torch"], "Decoder", prompt, **{**SEEDED, "seed": 8}))


@pytest.mark.parametrize(
    "name", ["Decoder", *(pytest.param(x, marks=pytest.mark.slow) for x in FAMILIES[1:])]
)
@each_mirror
def test_padding_may_be_on_either_side(name, mirror, prompt):
    """Left, right and in between: only the real tokens form the prompt."""
    tokens, mask = prompt
    expected = generated(mirror, name, prompt)
    model, array = models(name)[mirror.name], mirror.array
    behind, there = tokens.copy(), mask[:, 0, 0].copy()
    behind[1], there[1] = np.roll(tokens[1], -2), np.roll(there[1], -2)
    between, somewhere = behind.copy(), there.copy()
    between[1], somewhere[1] = behind[1, [0, 3, 1, 4, 2]], there[1, [0, 3, 1, 4, 2]]
    for given, real in ((behind, there), (between, somewhere)):
        found = mirror.package.models.generate(model, array(given), NEW, array(real))
        np.testing.assert_array_equal(numpy(found), expected)
    wrong = mirror.package.models.generate(model, array(behind), NEW)
    assert not np.array_equal(numpy(wrong)[1], expected[1])


def with_tokens(name, mirror, **special):
    """The model of that name with special tokens in its configuration, and a function that restores it."""
    model = models(name)[mirror.name]
    m = mirror.package.models
    before = model.config
    model.config = replace(before, special_tokens=m.SpecialTokens(**special))
    return model, lambda: setattr(model, "config", before)


@each_mirror
@pytest.mark.parametrize("name", ["Decoder", "rotary"])
def test_configuration_sets_the_end_and_padding_tokens(name, mirror, prompt):
    free = generated(mirror, name, prompt)
    ends = (int(free[0, 1]), int(free[1, 0]))
    expected = generated(mirror, name, prompt, eos_token=ends, pad_token=16)
    assert (expected == 16).any()
    _, restore = with_tokens(name, mirror, eos=ends, pad=16)
    try:
        np.testing.assert_array_equal(generated(mirror, name, prompt), expected)
        one = generated(mirror, name, prompt, eos_token=ends[0])
        np.testing.assert_array_equal(one, generated(mirror, name, prompt, eos_token=[ends[0]], pad_token=16))
        assert not np.array_equal(one, expected)
    finally:
        restore()
    without = generated(mirror, name, prompt, eos_token=ends)
    np.testing.assert_array_equal(np.where(expected == 16, ends[0], expected), without)


@each_mirror
def test_padding_token_of_the_configuration_masks_the_prompt(mirror, prompt):
    tokens, mask = prompt
    tokens = np.where(mask[:, 0, 0], np.where(tokens == 16, 1, tokens), 16).astype(np.int32)
    expected = generated(mirror, "Decoder", (tokens, mask))
    model, restore = with_tokens("Decoder", mirror, pad=16)
    try:
        found = mirror.package.models.generate(model, mirror.array(tokens), NEW)
    finally:
        restore()
    np.testing.assert_array_equal(numpy(found), expected)
    plain = mirror.package.models.generate(model, mirror.array(tokens), NEW)
    assert not np.array_equal(numpy(plain)[1], expected[1])


@each_mirror
def test_callback_receives_each_token_until_all_texts_have_ended(mirror, prompt):
    written = []
    free = generated(mirror, "Decoder", prompt, callback=lambda token: written.append(numpy(token).copy()))
    np.testing.assert_array_equal(np.stack(written, axis=1), free)
    ends = {int(x) for x in free[:, 1]}
    written.clear()
    found = generated(
        mirror, "Decoder", prompt, eos_token=sorted(ends), callback=lambda token: written.append(numpy(token))
    )
    assert 1 <= len(written) <= 2 < NEW
    assert (found[:, 2:] == min(ends)).all()


def test_one_step_is_compiled_for_all_tokens_and_callbacks(prompt):
    """JAX compiles the prefill and the decode step once each, however many texts are streamed."""
    from jax_attention.models.evaluation import _evaluate

    generated(MIRRORS["jax"], "Decoder", prompt, callback=lambda token: None)
    compiled = _evaluate._cache_size()
    for seed in range(3):
        tokens = np.random.default_rng(seed).integers(0, VOCAB, prompt[0].shape).astype(np.int32)
        generated(MIRRORS["jax"], "Decoder", (tokens, prompt[1]), callback=lambda token: None)
    assert _evaluate._cache_size() == compiled


def plain_beam(model, prompt, count, num_beams, length_penalty, ends):
    """Beam search in lists and loops over full passes; log-probabilities are float64."""
    live, found = [((), 0.0)], []
    for length in range(1, count + 1):
        grown = []
        for beginning, score in live:
            with torch.no_grad():
                read = model(torch.from_numpy(np.append(prompt, beginning)[None].astype(np.int32)))
            row = torch.log_softmax(read.logits[0, -1].double(), -1).numpy()
            grown += [((*beginning, token), score + row[token]) for token in range(VOCAB)]
        found += [(x, score / length**length_penalty) for x, score in grown if x[-1] in ends]
        going_on = [(x, score) for x, score in grown if x[-1] not in ends]
        live = sorted(going_on, key=lambda item: -item[1])[:num_beams]
    found += [(x, score / count**length_penalty) for x, score in live]
    return sorted(found, key=lambda item: -item[1])[:num_beams]


@pytest.mark.parametrize(
    "name", ["Decoder", *(pytest.param(x, marks=pytest.mark.slow) for x in FAMILIES[1:])]
)
@each_mirror
def test_beams_of_decoders_equal_a_plain_search(name, mirror, prompt):
    ends = (3, 11)
    settings = {"num_beams": 3, "length_penalty": 0.7}
    model, array = models(name)[mirror.name], mirror.array
    found = mirror.package.models.beam_search(
        model, array(prompt[0]), 4, array(prompt[1]), eos_token=ends, pad_token=0, **settings
    )
    greedy = numpy(mirror.package.models.generate(model, array(prompt[0]), 4, array(prompt[1])))
    for text in range(BATCH):
        real = prompt[0][text][prompt[1][text, 0, 0]]
        expected = plain_beam(models(name)["torch"], real, 4, 3, 0.7, ends)
        wanted = [[*x, *[0] * (4 - len(x))] for x, _ in expected]
        assert numpy(found.tokens)[text].tolist() == wanted
        right = np.array([score for _, score in expected])
        assert np.abs(numpy(found.scores)[text] - right).max() <= 2e-5 * np.abs(right).max()
    assert not np.array_equal(numpy(found.tokens)[:, 0], greedy)


MORE_REFUSED = [
    Case(f"{options}", partial(go_on, **options), exception, text)
    for options, exception, text in (
        (
            {"seed": 1, "temperature": 1.0, "draws": HALVES},
            ValueError,
            "seed must be None where draws are given",
        ),
        (
            {"start_token": 1},
            ValueError,
            "start_token must be None for a decoder, whose prompt begins the text",
        ),
        (
            {"eos_token": "end"},
            TypeError,
            "eos_token must be an integer or a sequence of integers, got 'end'",
        ),
        ({"eos_token": -1}, ValueError, "eos_token must be at least 0, got -1"),
        ({"num_tokens": -1}, ValueError, "num_tokens must be at least 1, got -1"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        (
            {"eos_token": [1, True]},
            TypeError,
            "eos_token must be an integer or a sequence of integers, got True",
        ),
        ({"callback": 3}, TypeError, "callback must be a function of the new tokens, got int"),
    )
]


@pytest.mark.parametrize("case", MORE_REFUSED, ids=lambda case: case.name[:40])
def test_other_bad_arguments_raise(case, as_shipped):
    assert_refused(case)


@each_mirror
def test_prompt_of_padding_only_raises(mirror, prompt):
    mask = prompt[1].copy()
    mask[2] = False
    with pytest.raises(ValueError, match="mask must leave at least one token of each prompt"):
        generated(mirror, "Decoder", (prompt[0], mask))


@each_mirror
def test_empty_eos_token_disables_the_end_token(mirror, prompt):
    free = generated(mirror, "Decoder", prompt)
    _, restore = with_tokens("Decoder", mirror, eos=(int(free[0, 1]),))
    try:
        assert not np.array_equal(generated(mirror, "Decoder", prompt), free)
        np.testing.assert_array_equal(generated(mirror, "Decoder", prompt, eos_token=()), free)
    finally:
        restore()


@each_mirror
@pytest.mark.parametrize("temperature", [1e-4, 1e-20, 1e-38, 1e-40, 5e-324])
def test_lowest_temperatures_take_the_most_likely_token(mirror, prompt, temperature):
    greedy = generated(mirror, "Decoder", prompt)
    cold = generated(mirror, "Decoder", prompt, temperature=temperature, seed=2**40)
    np.testing.assert_array_equal(cold, greedy)


@each_mirror
def test_greedy_decoding_needs_no_seed_and_accepts_one(mirror, prompt):
    greedy = generated(mirror, "Decoder", prompt)
    np.testing.assert_array_equal(generated(mirror, "Decoder", prompt, seed=3, top_k=2), greedy)


@each_mirror
@pytest.mark.parametrize("token", [-1, VOCAB])
def test_tokens_outside_the_vocabulary_raise(mirror, prompt, token):
    tokens = prompt[0].copy()
    tokens[1, 3] = token
    expected = rf"must be from 0 to below 17, got {min(token, tokens.min())} to {tokens.max()}"
    with pytest.raises(ValueError, match=f"inputs {expected}"):
        generated(mirror, "Decoder", (tokens, prompt[1]))
    for name in ("Decoder", "rotary"):
        with pytest.raises(ValueError, match=f"tokens {expected}"):
            models(name)[mirror.name](mirror.array(tokens))


@each_mirror
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_tokens_may_be_narrow_integers(mirror, prompt, dtype):
    model, tokens = models("rotary")[mirror.name], prompt[0]
    found = numpy(model(mirror.array(tokens.astype(dtype))).logits)
    np.testing.assert_array_equal(found, numpy(model(mirror.array(tokens)).logits))


def test_callback_in_traced_code_raises(prompt):
    model = models("Decoder")["jax"]
    generate = partial(jax_attention.models.generate, model, num_tokens=2, callback=print)
    with pytest.raises(TypeError, match="callback must be None while code is traced"):
        nnx.jit(generate)(MIRRORS["jax"].array(prompt[0]))


@each_mirror
@pytest.mark.parametrize("search", ["generate", "beam_search"])
def test_end_token_outside_the_vocabulary_raises(mirror, search, prompt):
    write = getattr(mirror.package.models, search)
    model, tokens = models("Decoder")[mirror.name], mirror.array(prompt[0])
    with pytest.raises(ValueError, match="eos_token must be below vocab_size=17, got 17"):
        write(model, tokens, 2, eos_token=(3, VOCAB))


def test_generation_sets_the_mode_of_the_model_once_and_restores_it(prompt, monkeypatch):
    """Each change of mode visits every module, which is too slow for every token."""
    model = deepcopy(models("Decoder")["torch"]).train()
    modes = []
    monkeypatch.setattr(model, "eval", lambda: modes.append("eval") or model.train(False))
    torch_attention.models.generate(model, torch.from_numpy(prompt[0]), NEW)
    assert model.training
    assert len(modes) == 2  # once for the prefill, and once for all later tokens
