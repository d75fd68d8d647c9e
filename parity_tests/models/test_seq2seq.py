"""`SimpleSeq2Seq` and `RecurrentSeq2Seq`: references, padding, causality, caches and bad input, in both mirrors."""

from functools import partial

import numpy as np
import pytest
import torch

from attention_bridge.parity.comparison import error
from attention_bridge.weights import convert
from parity_tests.helpers.refusals import Case, assert_impossible, assert_refused
from parity_tests.helpers.translators import (
    BATCH,
    EMBED,
    FFN,
    HEADS,
    HIDDEN,
    LAYERS,
    SOURCE,
    TARGET,
    TGT_VOCAB,
    call,
    mirror,
    numpy,
    padded,
    pair,
    sums,
    tokens,
)

RECURRENT = ("Bahdanau", "Luong, dot", "Luong, general")
NAMES = ("SimpleSeq2Seq", *RECURRENT)
BOUNDS = {"float64": lambda name: 1e-12, "float32": lambda name: 4 * 2.0**-24 * np.sqrt(sums(name))}
each_framework = pytest.mark.parametrize("framework", ["torch", "jax"])
# For properties of both frameworks, whose equality is tested elsewhere: JAX is a slow test.
each_in_time = pytest.mark.parametrize("framework", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
each_model = pytest.mark.parametrize("name", NAMES)


def read(framework, name, dtype="float32", given=None, src_mask=None, tgt_mask=None):
    """The logits, and the full result of `run`."""
    with mirror(framework, name, dtype) as m:
        run = call(m, "run", *(given or tokens()), src_mask, tgt_mask)
        return numpy(run.output), run


@each_framework
@pytest.mark.parametrize("name", ["SimpleSeq2Seq", "Bahdanau"])
def test_call_returns_the_documented_part_of_run(name, framework):
    masks = padded(SOURCE, 4), padded(TARGET, 3)
    logits, run = read(framework, name, "float32", None, *masks)
    with mirror(framework, name) as m:
        called = call(m, "__call__", *tokens(), *masks)
    if name != "SimpleSeq2Seq":
        called, weights = called
        np.testing.assert_array_equal(numpy(weights), numpy(run.cross_weights[0])[:, 0])
    assert called.shape == (BATCH, TARGET, TGT_VOCAB)
    assert error(numpy(called), logits) <= 2 * BOUNDS["float32"](name)


@pytest.mark.parametrize("dtype", BOUNDS)
@each_model
def test_both_mirrors_give_the_same_logits_and_weights(name, dtype):
    masks = padded(SOURCE, 4), padded(TARGET, 3)
    (ours, in_torch), (theirs, in_jax) = (read(f, name, dtype, None, *masks) for f in ("torch", "jax"))
    reference, _ = read("torch", name, "float64", None, *masks)
    bound = BOUNDS[dtype](name)
    assert ours.shape == (BATCH, TARGET, TGT_VOCAB)
    assert error(ours, theirs) <= 2 * bound
    assert max(error(ours, reference), error(theirs, reference)) <= bound
    for one, other in zip(in_torch.cross_weights, in_jax.cross_weights, strict=True):
        assert one.shape == (BATCH, 1 if name in RECURRENT else HEADS, TARGET, SOURCE)
        assert error(numpy(one), numpy(other)) <= 2 * bound
        np.testing.assert_allclose(numpy(one).sum(-1), 1.0, rtol=1e-6)
        assert not numpy(one)[1, ..., 4:].any()
    assert len(in_torch.cross_weights) == (1 if name in RECURRENT else LAYERS)
    if name == "SimpleSeq2Seq":
        assert [len(in_torch.encoder_weights), len(in_torch.self_weights)] == [LAYERS, LAYERS]


def torch_transformer(model):
    """Encoder and decoder of `torch.nn.Transformer`, with the weights of `model`."""
    layer = {"dim_feedforward": FFN, "dropout": 0.0, "batch_first": True, "norm_first": True}
    encoder = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(EMBED, HEADS, **layer),
        LAYERS,
        torch.nn.LayerNorm(EMBED),
        enable_nested_tensor=False,
    ).double()
    decoder = torch.nn.TransformerDecoder(
        torch.nn.TransformerDecoderLayer(EMBED, HEADS, **layer), LAYERS, torch.nn.LayerNorm(EMBED)
    ).double()
    state = model.state_dict()
    for half, theirs in (("encoder", encoder), ("decoder", decoder)):
        hub = {
            key.replace(f"{half}_layers.", "layers.").replace(f"{half}_norm.", "final_norm."): x.numpy()
            for key, x in state.items()
            if key.startswith((f"{half}_layers.", f"{half}_norm."))
        }
        found, _ = convert(hub, "torch_attention", f"torch.{half}_layer")
        theirs.load_state_dict({key: torch.from_numpy(np.array(x)) for key, x in found.items()})
    return encoder.eval(), decoder.eval()


@each_framework
def test_simple_seq2seq_equals_torch_nn_transformer(framework):
    model = pair("SimpleSeq2Seq", "float64").torch
    encoder, decoder = torch_transformer(model)
    source, target = map(torch.from_numpy, tokens())
    src_mask, tgt_mask = padded(SOURCE, 4), padded(TARGET, 3)
    hidden = [~torch.from_numpy(mask[:, 0, 0]) for mask in (src_mask, tgt_mask)]
    with torch.no_grad():
        embedded = [
            table.weight[x] + places.weight[: x.shape[1]]
            for x, table, places in (
                (source, model.source_embedding, model.source_position_embedding),
                (target, model.target_embedding, model.target_position_embedding),
            )
        ]
        memory = encoder(embedded[0], src_key_padding_mask=hidden[0])
        later = torch.ones(TARGET, TARGET, dtype=torch.bool).triu(1)
        written = decoder(
            embedded[1],
            memory,
            tgt_mask=later,
            tgt_key_padding_mask=hidden[1],
            memory_key_padding_mask=hidden[0],
        )
        expected = (written @ model.head.weight.T + model.head.bias).numpy()
    found, _ = read(framework, "SimpleSeq2Seq", "float64", None, src_mask, tgt_mask)
    assert error(found, expected) <= 1e-12
    single, _ = read(framework, "SimpleSeq2Seq", "float32", None, src_mask, tgt_mask)
    assert error(single, expected) <= BOUNDS["float32"]("SimpleSeq2Seq")


@each_framework
def test_recurrent_encoder_equals_torch_nn_gru(framework):
    model, (source, _) = pair("Bahdanau", "float64").torch, tokens()
    gru = torch.nn.GRU(EMBED, HIDDEN // 2, batch_first=True, bidirectional=True).double()
    with torch.no_grad():
        for cell, suffix in ((model.forward_cell, ""), (model.backward_cell, "_reverse")):
            for key, x in cell.named_parameters():
                getattr(gru, f"{key}_l0{suffix}").copy_(x)
        x = model.source_embedding.weight[torch.from_numpy(source)]
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([SOURCE, 4]), batch_first=True)
        expected, _ = torch.nn.utils.rnn.pad_packed_sequence(gru(packed)[0], batch_first=True)
    with mirror(framework, "Bahdanau", "float64") as m:
        mask = padded(SOURCE, 4)
        found = numpy(call(m, "encode", source, mask).output) * mask[:, 0, 0, :, None]
    assert error(found, expected.numpy()) <= 1e-12


@each_framework
def test_recurrent_decoder_equals_its_equations(framework):
    """Loops over texts and words in numpy, from the encoder's states."""
    state = {key: x.double().numpy() for key, x in pair("Bahdanau", "float64").torch.state_dict().items()}
    source, target = tokens()
    mask = padded(SOURCE, 4)
    with mirror(framework, "Bahdanau", "float64") as m:
        memory = numpy(call(m, "encode", source, mask).output)
        found = call(m, "__call__", source, target, mask)
    logits, weights = np.zeros((BATCH, TARGET, TGT_VOCAB)), np.zeros((BATCH, TARGET, SOURCE))

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for text in range(BATCH):
        h = memory[text, : SOURCE if text == 0 else 4]
        z = np.tanh(state["start_proj.weight"] @ h[0, HIDDEN // 2 :] + state["start_proj.bias"])
        for i in range(TARGET):
            scores = [
                state["attention.score_proj.weight"][0]
                @ np.tanh(state["attention.q_proj.weight"] @ z + state["attention.k_proj.weight"] @ each)
                for each in h
            ]
            weights[text, i, : len(h)] = np.exp(scores) / np.exp(scores).sum()
            context = sum(weight * each for weight, each in zip(weights[text, i], h, strict=False))
            read = np.concatenate([state["target_embedding.weight"][target[text, i]], context])
            inside = state["decoder_cell.weight_ih"] @ read + state["decoder_cell.bias_ih"]
            before = state["decoder_cell.weight_hh"] @ z + state["decoder_cell.bias_hh"]
            reset = sigmoid(inside[:HIDDEN] + before[:HIDDEN])
            update = sigmoid(inside[HIDDEN : 2 * HIDDEN] + before[HIDDEN : 2 * HIDDEN])
            new = np.tanh(inside[2 * HIDDEN :] + reset * before[2 * HIDDEN :])
            z = (1 - update) * new + update * z
            readout = state["readout_proj.weight"] @ np.concatenate([z, context]) + state["readout_proj.bias"]
            logits[text, i] = state["head.weight"] @ np.tanh(readout) + state["head.bias"]
    assert error(numpy(found.output), logits) <= 1e-12
    assert error(numpy(found.weights), weights) <= 1e-12


@pytest.mark.slow
@each_in_time
@each_model
def test_source_padding_changes_nothing_and_counts_without_a_mask(name, framework):
    source, target = tokens()
    found, _ = read(framework, name, "float64", None, padded(SOURCE, 4))
    alone, _ = read(framework, name, "float64", (source[:, :4].copy(), target))
    assert error(found[1], alone[1]) <= 1e-12
    seen, _ = read(framework, name, "float64")
    assert error(seen[1], alone[1]) > 1e-3


@each_in_time
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrence_skips_left_padding(name, framework):
    source, target = tokens()
    masks = padded(SOURCE, 4, in_front=True), padded(TARGET, 3, in_front=True)
    found, _ = read(framework, name, "float64", None, *masks)
    alone, _ = read(framework, name, "float64", (source[:, 3:].copy(), target[:, 2:].copy()))
    assert error(found[1, 2:], alone[1]) <= 1e-12


@each_in_time
@each_model
def test_scores_do_not_depend_on_later_target_tokens(name, framework):
    source, target = tokens()
    changed = target.copy()
    changed[:, 3] = 1 + target[:, 3] % (TGT_VOCAB - 1)
    before, after = (read(framework, name, "float64", (source, x))[0] for x in (target, changed))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert error(after[:, 3:], before[:, 3:]) > 1e-3


@pytest.mark.slow
@each_in_time
@each_model
def test_chunks_with_caches_equal_the_whole(name, framework):
    mask = padded(SOURCE, 4)
    expected, _ = read(framework, name, "float64", None, mask)
    with mirror(framework, name, "float64") as m:
        source, target = map(m.array, tokens())
        memory, caches = m.model.encode(source, m.array(mask)).output, m.model.start(TARGET)
        found = []
        for part in (slice(0, 2), slice(2, 3), slice(3, TARGET)):
            written = m.model.decode(target[:, part], memory, None, m.array(mask), caches=caches)
            caches = written.caches
            found.append(numpy(written.output))
    assert error(np.concatenate(found, axis=1), expected) <= 1e-12


@pytest.mark.slow
@each_in_time
@each_model
def test_cache_selected_by_text_equals_the_cache_of_these_texts(name, framework):
    expected, _ = read(framework, name, "float64")
    with mirror(framework, name, "float64") as m:
        source, target = map(m.array, tokens())
        memory, rows = m.model.encode(source).output, m.array(np.array([1, 0, 1]))
        caches = m.model.decode(target[:, :3], memory, caches=m.model.start(TARGET)).caches
        chosen = tuple(cache.select(rows) for cache in caches)
        found = numpy(m.model.decode(target[rows][:, 3:], memory[rows], caches=chosen).output)
    assert error(found, expected[[1, 0, 1], 3:]) <= 1e-12


def simple(m, **options):
    return m.SimpleSeq2Seq(11, 9, 6, 3, 2, max_len=8, **options)


def recurrent(m, **options):
    return m.RecurrentSeq2Seq(11, 9, 6, 8, m.BasicAttention(8, 8, 5), **options)


def whole(build, m, source=(2, 7), src_mask=None, mask_shape=(2, 1, 1, 7)):
    """A call of a model with tokens and a mask of these shapes."""
    mask = None if src_mask is None else m.ones(*mask_shape, dtype=src_mask)
    arrays = (m.ones(*shape, dtype=np.int32) for shape in (source, (2, 5)))
    return partial(build(m), *arrays, mask)


def write(build, dim, m, target=(2, 5), tgt_mask=None, mask_shape=(2, 1, 1, 5), num_caches=None):
    """A call of `decode` with tokens and a mask of these shapes."""
    model = build(m)
    caches = None if num_caches is None else model.start(5)[:1] * num_caches
    mask = None if tgt_mask is None else m.ones(*mask_shape, dtype=tgt_mask)
    return partial(model.decode, m.ones(*target, dtype=np.int32), m.nan(2, 7, dim), mask, caches=caches)


NOT_BOOLEAN = (
    "{} must be boolean (True: the query attends to the key), got float32; "
    ".bool() or .astype(bool) converts it, additive values go in bias"
)
TOKEN_MASK = (
    "{} with two axes must have shape (batch, length) = {}, got {}; "
    "a mask of (query, key) is given as (1, query, key)"
)
KEY_MASK = "{} must have shape (batch, 1, 1, key) = {} here, as padding_mask(tokens, pad_id) gives it, got {}"
REFUSED = [
    *(
        case
        for build in (simple, recurrent)
        for case in (
            Case(
                f"{build.__name__}: a source without a batch",
                partial(whole, build, source=(7,)),
                ValueError,
                "src_tokens must have shape (batch, length), got (7,)",
            ),
            Case(
                f"{build.__name__}: a mask of the source of another shape",
                partial(whole, build, src_mask=bool, mask_shape=(7, 7)),
                ValueError,
                TOKEN_MASK.format("src_mask", (2, 7), (7, 7)),
            ),
            Case(
                f"{build.__name__}: a mask of the source that is not boolean",
                partial(whole, build, src_mask=np.float32),
                TypeError,
                NOT_BOOLEAN.format("src_mask"),
            ),
        )
    ),
    Case(
        "a source longer than the positions",
        partial(whole, simple, source=(2, 9)),
        ValueError,
        "src_tokens must have at most max_len=8 tokens, got 9",
    ),
    Case(
        "an empty source",
        partial(whole, recurrent, source=(2, 0)),
        ValueError,
        "source must be at least 1, got 0",
    ),
]
REFUSED += [
    *(
        case
        for build, dim in ((simple, 6), (recurrent, 8))
        for case in (
            Case(
                f"{build.__name__}: a target without a batch",
                partial(write, build, dim, target=(5,)),
                ValueError,
                "tgt_tokens must have shape (batch, length), got (5,)",
            ),
            Case(
                f"{build.__name__}: a mask of the target that is not boolean",
                partial(write, build, dim, tgt_mask=np.float32),
                TypeError,
                NOT_BOOLEAN.format("tgt_mask"),
            ),
            Case(
                f"{build.__name__}: texts of another batch",
                partial(write, build, dim, target=(3, 5)),
                ValueError,
                f"memory must have shape (3, length, {dim}), got (2, 7, {dim})",
            ),
            Case(
                f"{build.__name__}: too many caches",
                partial(write, build, dim, num_caches=3),
                ValueError,
                f"caches must be one for {'each of 2 layers' if build is simple else 'the one recurrence'}, got 3",
            ),
        )
    ),
    Case(
        "a target longer than the positions",
        partial(write, simple, 6, target=(2, 9)),
        ValueError,
        "tgt_tokens must have at most max_len=8 tokens, got 9",
    ),
    Case(
        "a mask of the target of another shape, where there is a recurrence",
        partial(write, recurrent, 8, tgt_mask=bool, mask_shape=(5, 5)),
        ValueError,
        TOKEN_MASK.format("tgt_mask", (2, 5), (5, 5)),
    ),
    Case(
        "a mask of the target of another shape",
        partial(write, simple, 6, tgt_mask=bool, mask_shape=(5, 4)),
        ValueError,
        TOKEN_MASK.format("tgt_mask", (2, 5), (5, 4)),
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_bad_input_raises(case, as_shipped):
    assert_refused(case)


IMPOSSIBLE = [
    Case(
        "heads that do not divide",
        lambda m: partial(m.SimpleSeq2Seq, 11, 9, 6, 4, 2),
        ValueError,
        "embed_dim must be divisible by num_heads, got embed_dim=6 and num_heads=4",
    ),
    Case(
        "no positions",
        lambda m: partial(m.SimpleSeq2Seq, 11, 9, 6, 3, 2, max_len=0),
        ValueError,
        "max_len must be at least 1, got 0",
    ),
    Case(
        "directions that do not divide",
        lambda m: partial(m.RecurrentSeq2Seq, 11, 9, 6, 7, m.BasicAttention(7, 7, 5)),
        ValueError,
        "hidden_dim must be divisible by directions, got hidden_dim=7 and directions=2",
    ),
    Case(
        "an attention with dropout",
        lambda m: partial(m.RecurrentSeq2Seq, 11, 9, 6, 8, m.BasicAttention(8, 8, 5, dropout=0.1)),
        ValueError,
        "attention must have dropout=0 where it is a step of a recurrence, got 0.1",
    ),
]


@pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.name)
def test_bad_arguments_raise(case, as_shipped):
    assert_impossible(case)
