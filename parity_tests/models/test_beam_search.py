"""Greedy decoding and beam search of translation models against plain Python searches, equal in both mirrors."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch

from parity_tests.helpers.refusals import Case, assert_refused
from parity_tests.helpers.translators import SOURCE, call, mirror, numpy, padded, pair, sums, tokens

START, STOP, PAD = 1, 2, 0
MARKS = {"start_token": START, "eos_token": STOP, "pad_token": PAD}
SMALL = 4  # tokens; few, so that all sequences can be enumerated
BEAMS = 45  # more than the 1 + 3 + 9 + 27 sequences of up to 3 tokens
NAMES = ("SimpleSeq2Seq", "Bahdanau")
each_framework = pytest.mark.parametrize("framework", ["torch", "jax"])
each_model = pytest.mark.parametrize("name", NAMES)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def chances(model, text, beginnings):
    """Float64 log-probabilities of every next token after each prefix, from the model without caches."""
    source, mask = (torch.from_numpy(x[text : text + 1]) for x in (tokens()[0], padded(SOURCE, 4)))
    source, mask = source.expand(len(beginnings), -1), mask.expand(len(beginnings), -1, -1, -1)
    written = torch.tensor([[START, *beginning] for beginning in beginnings])
    with torch.no_grad():
        return log_softmax(model.run(source, written, mask, need_weights=False).output[:, -1].numpy())


def every_sequence(model, text, vocab, max_len, length_penalty):
    """All possible sequences with their scores, best first."""
    others = [token for token in range(vocab) if token != STOP]
    live, found = {(): 0.0}, {}
    for length in range(1, max_len + 1):
        rows = chances(model, text, list(live))
        grown = {
            (*beginning, token): score + row[token]
            for (beginning, score), row in zip(live.items(), rows, strict=True)
            for token in range(vocab)
        }
        done = grown if length == max_len else {x: s for x, s in grown.items() if x[-1] == STOP}
        found |= {x: score / length**length_penalty for x, score in done.items()}
        live = {(*x, token): grown[(*x, token)] for x in live for token in others}
    return sorted(found.items(), key=lambda item: -item[1])


def plain_beam(model, text, max_len, num_beams, length_penalty):
    """Beam search in lists and loops: finished sequences are set aside, the best unfinished ones are extended."""
    live, found = [((), 0.0)], []
    for length in range(1, max_len + 1):
        rows = chances(model, text, [beginning for beginning, _ in live])
        grown = [
            ((*beginning, token), score + row[token])
            for (beginning, score), row in zip(live, rows, strict=True)
            for token in range(rows.shape[-1])
        ]
        found += [(x, score / length**length_penalty) for x, score in grown if x[-1] == STOP]
        going_on = [(x, score) for x, score in grown if x[-1] != STOP]
        live = sorted(going_on, key=lambda item: -item[1])[:num_beams]
    found += [(x, score / max_len**length_penalty) for x, score in live]
    return sorted(found, key=lambda item: -item[1])[:num_beams]


def search(framework, name, dtype="float32", vocab=9, *, max_len, **options):
    """The sequences of both texts without their padding, and the scores."""
    with mirror(framework, name, dtype, vocab) as m:
        source, mask = m.array(tokens()[0]), m.array(padded(SOURCE, 4))
        found = m.models.beam_search(m.model, source, max_len, mask, **MARKS, **options)
        return numpy(found.tokens), numpy(found.scores)


def with_padding(sequence, max_len):
    return [*sequence, *[PAD] * (max_len - len(sequence))]


def assert_found(found, expected, bound, max_len):
    """Assert the sequences and scores of one text."""
    found_tokens, scores = found
    assert found_tokens.tolist() == [with_padding(x, max_len) for x, _ in expected]
    wanted = np.array([score for _, score in expected])
    assert np.abs(scores - wanted).max() <= bound * np.abs(wanted).max()


def bound(dtype, name):
    return 1e-12 if dtype == "float64" else 4 * 2.0**-24 * np.sqrt(sums(name))


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
@each_framework
@each_model
def test_beam_that_holds_every_sequence_finds_the_best(name, framework, dtype):
    tokens_found, scores = search(framework, name, dtype, SMALL, max_len=3, num_beams=BEAMS)
    assert scores.dtype == dtype
    model = pair(name, "float64", SMALL).torch
    for text in range(2):
        expected = every_sequence(model, text, SMALL, 3, 1.0)
        assert len(expected) == 40
        found = tokens_found[text, :40], scores[text, :40]
        assert_found(found, expected, bound(dtype, name), 3)
        assert np.isneginf(scores[text, 40:]).all()
        assert (tokens_found[text, 40:] == PAD).all()


@pytest.mark.parametrize(
    ("num_beams", "length_penalty"), [(2, 0.6), pytest.param(3, 0.0, marks=pytest.mark.slow)]
)
@each_framework
@each_model
def test_narrow_beam_equals_a_plain_search(name, framework, num_beams, length_penalty):
    options = {"max_len": 5, "num_beams": num_beams, "length_penalty": length_penalty}
    found = search(framework, name, "float64", **options)
    model = pair(name, "float64").torch
    for text in range(2):
        expected = plain_beam(model, text, **options)
        assert_found((found[0][text], found[1][text]), expected, 1e-12, 5)


def test_plain_search_differs_from_the_exhaustive_search():
    """A control: a narrow beam misses some sequences, so that the tests above are distinct."""
    model = pair("Bahdanau", "float64").torch
    narrow = [[x for x, _ in plain_beam(model, text, 3, 2, 0.6)] for text in range(2)]
    everything = [[x for x, _ in every_sequence(model, text, 9, 3, 0.6)[:2]] for text in range(2)]
    assert narrow != everything


@pytest.mark.slow
@each_framework
@each_model
def test_greedy_decoding_takes_the_most_likely_token_of_the_full_pass(name, framework):
    model = pair(name, "float64").torch
    with mirror(framework, name, "float64") as m:
        source, mask = m.array(tokens()[0]), m.array(padded(SOURCE, 4))
        found = numpy(m.models.generate(m.model, source, 6, mask, **MARKS))
    for text in range(2):
        written = []
        while len(written) < 6 and STOP not in written:
            written.append(int(chances(model, text, [tuple(written)])[0].argmax()))
        assert found[text].tolist() == with_padding(written, 6)


@pytest.mark.parametrize("name", ["EncoderDecoder", "RelativeEncoderDecoder"])
@pytest.mark.slow
def test_checkpoint_families_decode_alike_in_both_mirrors(name):
    model = pair(name, "float64").torch
    found = {}
    for framework in ("torch", "jax"):
        found[framework] = search(framework, name, "float64", max_len=4, num_beams=3)
        for text in range(2):
            expected = plain_beam(model, text, 4, 3, 1.0)
            assert_found((found[framework][0][text], found[framework][1][text]), expected, 1e-12, 4)
    np.testing.assert_array_equal(found["torch"][0], found["jax"][0])


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_single_token_needs_no_decode_step(framework):
    with mirror(framework, "Bahdanau") as m:
        source = m.array(tokens()[0])
        greedy = numpy(m.models.generate(m.model, source, 1, **MARKS))
        beams = m.models.beam_search(m.model, source, 1, **MARKS, num_beams=2)
        logits = numpy(call(m, "run", tokens()[0], np.full((2, 1), START, np.int32)).output)[:, 0]
    best = np.argsort(-logits, axis=-1, kind="stable")[:, :2]
    np.testing.assert_array_equal(greedy[:, 0], best[:, 0])
    np.testing.assert_array_equal(numpy(beams.tokens)[..., 0], best)


@pytest.mark.slow
@each_framework
def test_lower_token_comes_first_among_equal_scores(framework):
    """With equally likely tokens, sequences come in the order of their tokens."""
    with mirror(framework, "SimpleSeq2Seq", "float32", SMALL) as m:
        before = m.model.head
        m.model.head = indifferent(before, m)
        try:
            found = m.models.beam_search(
                m.model, m.array(tokens()[0]), 2, **MARKS, num_beams=6, length_penalty=0.0
            )
            greedy = numpy(m.models.generate(m.model, m.array(tokens()[0]), 3, **MARKS))
        finally:
            m.model.head = before
    # A shorter sequence is more likely; then the finished ones, in the order of their prefixes.
    expected = [[2, 0], [0, 2], [1, 2], [3, 2], [0, 0], [0, 1]]
    assert numpy(found.tokens).tolist() == [expected] * 2
    assert (greedy == 0).all()


def indifferent(head, m):
    """The head of a model with zero weights, so that all tokens have equal scores."""
    zeros = deepcopy(head)
    if m.name == "torch":
        for parameter in zeros.parameters():
            parameter.zero_()
    else:
        zeros.kernel[...], zeros.bias[...] = 0 * zeros.kernel[...], 0 * zeros.bias[...]
    return zeros


def test_generation_keeps_the_mode_of_the_model():
    with mirror("torch", "SimpleSeq2Seq") as m:
        m.model.train()
        m.models.generate(m.model, m.array(tokens()[0]), 1, **MARKS)
        assert m.model.training
        m.model.eval()


def write(search, m, *, source=(2, 7), mask=None, model="SimpleSeq2Seq", **options):
    """A call of `generate` or `beam_search` for a model with room for 8 tokens."""
    made = m.SimpleSeq2Seq(11, 9, 6, 3, 1, max_len=8)
    options = {**MARKS, "num_tokens": 4, **options}
    given = {"inputs": m.ones(*source, dtype=np.int32), "mask": mask and mask(m)}
    return partial(getattr(m, search), made, **given, **options)


REFUSED = [
    *(
        Case(f"{search}: {name}", partial(write, search, **options), exception, text)
        for search in ("generate", "beam_search")
        for name, options, exception, text in (
            ("no token", {"num_tokens": 0}, ValueError, "num_tokens must be at least 1, got 0"),
            (
                "more tokens than have a position",
                {"num_tokens": 9},
                ValueError,
                "num_tokens must be at most the 8 positions of the model, got 9",
            ),
            (
                "a source longer than the positions",
                {"source": (2, 9)},
                ValueError,
                "src_tokens must have at most max_len=8 tokens, got 9",
            ),
            (
                "a source without a batch",
                {"source": (7,)},
                ValueError,
                "inputs must have shape (batch, length, ...), got (7,)",
            ),
            (
                "a mask that is not boolean",
                {"mask": lambda m: m.ones(2, 1, 1, 7, dtype=np.float32)},
                TypeError,
                "mask must be boolean (True: the query attends to the key), got float32; "
                ".bool() or .astype(bool) converts it, additive values go in bias",
            ),
        )
    ),
    Case(
        "beam_search: no beam",
        partial(write, "beam_search", num_beams=0),
        ValueError,
        "num_beams must be at least 1, got 0",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_bad_input_raises(case, as_shipped):
    assert_refused(case)
