"""Sparse attention patterns: window conventions, equalities stated in docstrings, and bad input."""

import inspect
import os
import zlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers.masking_utils import (
    chunked_causal_mask_function,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

import jax_attention
import torch_attention
from attention_bridge.parity.comparison import error
from attention_bridge.weights import transfer
from parity_tests.helpers.refusals import MIRRORS, Case, assert_impossible, assert_refused
from parity_tests.ops.test_masks import examples

os.environ.setdefault("KERAS_BACKEND", "torch")

as_shipped = pytest.mark.usefixtures("as_shipped")
EPS = float(np.finfo(np.float32).eps)
LENGTH = 12


def both(name, *args, position=None, **options):
    """A module of each mirror with the same random weights; equal parameter names get equal values in all classes."""
    ours, theirs = (
        getattr(mirror, name)(
            *args, **options, **({} if position is None else {"position": position(mirror)})
        )
        for mirror in MIRRORS.values()
    )
    with torch.no_grad():
        for path, parameter in ours.named_parameters():
            rng = np.random.default_rng(zlib.crc32(path.encode()))
            parameter.copy_(torch.from_numpy(0.5 * rng.standard_normal(parameter.shape)))
    return ours.eval(), transfer(ours, theirs)


def rotary(m):
    """A rotary embedding for heads of 4 features."""
    return m.RotaryEmbedding(4)


def run(modules, x, **arguments):
    """Output and weights of each mirror for `x`, as numpy arrays."""
    ours, theirs = modules
    in_torch = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    in_jax = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    for result in (ours(torch.from_numpy(x), **in_torch), theirs(jnp.asarray(x), **in_jax)):
        yield tuple(np.asarray(y.tolist(), np.float32) for y in result)


def assert_equal(first, second):
    """Assert that both mirrors have the same outputs and weights, up to rounding."""
    for one, other in zip(first, second, strict=True):
        for x, y in zip(one, other, strict=True):
            assert error(x, y) < 8 * EPS


@pytest.fixture
def x(rng):
    return rng.standard_normal((2, LENGTH, 12)).astype(np.float32)


def keys_of(mask, query):
    """The keys that a query attends to, counted from 1 as in the table of conventions."""
    return (np.flatnonzero(np.asarray(mask)[query - 1]) + 1).tolist()


def matrix(sees):
    """The mask that a mask function of transformers describes."""
    places = torch.arange(LENGTH)
    return sees(0, 0, places[:, None], places[None])


class TestConventionsOfTheWindow:
    """The keys of query 8 under a window of 4 in other libraries; this package shows 5 6 7 8."""

    def test_window_includes_the_own_key_here(self):
        for mirror in (torch_attention, jax_attention):
            assert keys_of(mirror.sliding_window_mask(LENGTH, window=4), 8) == [5, 6, 7, 8]

    def test_transformers_window_includes_the_own_key(self):
        sees = sliding_window_causal_mask_function(4)
        assert keys_of(matrix(sees), 8) == [5, 6, 7, 8]

    def test_transformers_bidirectional_window_has_four_keys_on_each_side(self):
        sees = sliding_window_bidirectional_mask_function(4)
        assert keys_of(matrix(sees), 8) == list(range(4, 13))
        nobody = torch.zeros(1, LENGTH, dtype=torch.bool)
        ours = torch_attention.local_global_mask(nobody, one_sided_window=4)
        assert keys_of(ours[0, 0], 8) == list(range(4, 13))

    @pytest.mark.slow
    @pytest.mark.filterwarnings("default")  # raised by Keras
    def test_keras_causal_window_includes_the_own_key(self, rng):
        import keras

        layer = keras.layers.MultiHeadAttention(num_heads=2, key_dim=4, sliding_window=4)
        x = keras.ops.convert_to_tensor(rng.standard_normal((1, LENGTH, 8)).astype(np.float32))
        for is_causal, expected in ((True, [5, 6, 7, 8]), (False, list(range(5, 12)))):
            _, scores = layer(x, x, use_causal_mask=is_causal, return_attention_scores=True)
            assert keys_of(keras.ops.convert_to_numpy(scores)[0, 0] > 0, 8) == expected

    @pytest.mark.slow
    @pytest.mark.parametrize("window", [4, (4, 0)])
    def test_jax_nn_window_counts_the_keys_before_the_own(self, window, rng):
        query = jnp.asarray(rng.standard_normal((1, LENGTH, 1, LENGTH)), jnp.float32)
        value = jnp.eye(LENGTH, dtype=jnp.float32)[None, :, None]  # so that the output is the weights
        weights = jax.nn.dot_product_attention(query, query, value, is_causal=True, local_window_size=window)
        seen = np.asarray(weights[0, :, 0] > 0)
        assert keys_of(seen, 8) == [4, 5, 6, 7, 8]
        np.testing.assert_array_equal(seen, jax_attention.sliding_window_mask(LENGTH, window=5))

    @pytest.mark.slow
    @pytest.mark.filterwarnings("default")  # raised by x-transformers
    def test_x_transformers_window_counts_the_keys_before_the_own(self, rng):
        import x_transformers

        layer = x_transformers.Attention(dim=8, heads=2, dim_head=4, causal=True, max_attend_past=4)
        x = torch.from_numpy(rng.standard_normal((1, LENGTH, 8)).astype(np.float32))
        _, internals = layer(x, return_intermediates=True)
        assert keys_of(internals.post_softmax_attn.detach()[0, 0] > 0, 8) == [4, 5, 6, 7, 8]

    def test_transformers_chunks_are_the_same(self):
        sees = chunked_causal_mask_function(5, torch.zeros(1, dtype=torch.int64))
        for mirror in (torch_attention, jax_attention):
            assert mirror.chunked_mask(LENGTH, chunk_size=5).tolist() == matrix(sees).tolist()


class TestLadder:
    """Equalities between a class and a simpler one, as stated in docstrings."""

    @pytest.mark.slow
    def test_window_as_long_as_the_text_is_causal_attention(self, x):
        assert_equal(
            run(both("SlidingWindowAttention", 12, 3, LENGTH), x), run(both("CausalSelfAttention", 12, 3), x)
        )

    def test_window_of_one_returns_the_own_value(self, x):
        for _, weights in run(both("SlidingWindowAttention", 12, 3, 1), x):
            np.testing.assert_array_equal(weights, np.broadcast_to(np.eye(LENGTH), weights.shape))

    def test_chunk_as_long_as_the_text_is_causal_attention(self, x):
        assert_equal(
            run(both("ChunkedAttention", 12, 3, LENGTH), x), run(both("CausalSelfAttention", 12, 3), x)
        )

    @pytest.mark.slow
    def test_chunks_are_independent(self, x):
        whole = run(both("ChunkedAttention", 12, 3, 4), x)
        parts = [list(run(both("ChunkedAttention", 12, 3, 4), x[:, i : i + 4].copy())) for i in (0, 4, 8)]
        for mirror, (output, _) in enumerate(whole):
            joined = np.concatenate([part[mirror][0] for part in parts], axis=1)
            assert error(joined, output) < 8 * EPS

    @pytest.mark.slow
    @pytest.mark.parametrize("position", [None, rotary])
    def test_streaming_without_sinks_is_a_sliding_window(self, x, position):
        assert_equal(
            run(both("StreamingAttention", 12, 3, 3, 0, position=position), x),
            run(both("SlidingWindowAttention", 12, 3, 3, position=position), x),
        )

    @pytest.mark.slow
    def test_longformer_without_global_tokens_is_a_window_on_both_sides(self, x):
        modules = both("LongformerAttention", 12, 3, 2)
        assert_equal(run(modules, x), run(modules, x, global_tokens=np.zeros((2, LENGTH), bool)))
        near = np.abs(np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH))) <= 2
        assert_equal(run(modules, x), run(both("MultiHeadSelfAttention", 12, 3), x, mask=near))

    def test_longformer_with_only_global_tokens_uses_only_global_projections(self, x):
        ours, theirs = both("LongformerAttention", 12, 3, 2)
        plain, mirrored = both("MultiHeadSelfAttention", 12, 3)
        state = ours.state_dict()
        plain.load_state_dict({k: state.get(f"global_{k}", state[k]) for k in plain.state_dict()})
        everybody = np.ones((2, LENGTH), bool)
        assert_equal(
            run((ours, theirs), x, global_tokens=everybody), run((plain, transfer(plain, mirrored)), x)
        )

    @pytest.mark.slow
    def test_big_bird_with_three_blocks_is_dense_attention(self, x):
        assert_equal(
            run(both("BigBirdAttention", 12, 3, 4), x), run(both("MultiHeadSelfAttention", 12, 3), x)
        )

    @pytest.mark.slow
    def test_very_low_sink_is_plain_attention_and_very_high_sink_takes_all_weight(self, x):
        ours, theirs = both("LearnedSinkAttention", 12, 3)
        with torch.no_grad():
            ours.sinks.fill_(-1e4)
        assert_equal(run((ours, transfer(ours, theirs)), x), run(both("MultiHeadSelfAttention", 12, 3), x))
        with torch.no_grad():
            ours.sinks.fill_(1e4)
        for _, weights in run((ours, transfer(ours, theirs)), x):
            assert not weights.any()

    def test_sink_of_zero_is_the_softmax_off_by_one(self, x):
        ours, theirs = both("LearnedSinkAttention", 12, 3)
        with torch.no_grad():
            ours.sinks.zero_()
        query, key = (
            proj(torch.from_numpy(x)).reshape(2, LENGTH, 3, 4).transpose(1, 2)
            for proj in (ours.q_proj, ours.k_proj)
        )
        exponentials = (query @ key.mT / 2).detach().double().exp().numpy()
        expected = exponentials / (1 + exponentials.sum(-1, keepdims=True))
        for _, weights in run((ours, transfer(ours, theirs)), x):
            assert error(weights, expected) < 100 * EPS


class TestSinks:
    def test_weights_sum_to_less_than_one(self, x):
        for _, weights in run(both("LearnedSinkAttention", 12, 3), x):
            assert (weights.sum(-1) < 1).all()
            assert (weights.sum(-1) > 0).all()

    @pytest.mark.slow
    def test_fully_masked_row_is_zero_and_so_are_its_gradients(self, x):
        mask = np.tril(np.ones((LENGTH, LENGTH), bool))
        mask[3] = False
        ours, theirs = both("LearnedSinkAttention", 12, 3)
        for _, weights in run((ours, theirs), x, mask=mask):
            assert not weights[:, :, 3].any()
        scores = np.random.default_rng(0).standard_normal((1, 3, 2, 4)).astype(np.float32)
        sinks, hidden = np.array([0.5, -0.5, 0.0], np.float32), np.zeros((2, 4), bool)
        tensor, sink = torch.tensor(scores, requires_grad=True), torch.tensor(sinks, requires_grad=True)
        torch_attention.ops.sink_softmax(tensor, sink, torch.from_numpy(hidden)).sum().backward()
        gradients = jax.grad(
            lambda s, b: jax_attention.ops.sink_softmax(s, b, jnp.asarray(hidden)).sum(), argnums=(0, 1)
        )(jnp.asarray(scores), jnp.asarray(sinks))
        for gradient in (tensor.grad, sink.grad, *gradients):
            assert not np.asarray(gradient).any()

    def test_huge_scores_and_sinks_stay_finite(self):
        scores = np.array([[[[1e30, -1e30, 0.0]]], [[[-1e30, -1e30, -1e30]]]], np.float32)
        sinks = np.array([-1e30], np.float32)
        expected = [[1, 0, 0], [0.25, 0.25, 0.25]]
        ours = torch_attention.ops.sink_softmax(torch.from_numpy(scores), torch.from_numpy(sinks))
        theirs = jax_attention.ops.sink_softmax(jnp.asarray(scores), jnp.asarray(sinks))
        for weights in (ours, theirs):
            np.testing.assert_array_equal(np.asarray(weights)[:, 0, 0], expected)

    @pytest.mark.slow
    def test_grouped_heads_windows_and_causal_masks_are_those_of_other_classes(self, x):
        modules = both("LearnedSinkAttention", 12, 6, num_kv_heads=2, head_dim=4, is_causal=True, window=3)
        seen = np.asarray(torch_attention.sliding_window_mask(LENGTH, window=3))
        free = both("LearnedSinkAttention", 12, 6, num_kv_heads=2, head_dim=4)
        assert_equal(run(modules, x), run(free, x, mask=seen))


class TestPersistentMemory:
    @pytest.mark.slow
    def test_memories_equal_keys_and_values_of_extra_tokens(self, x, rng):
        further = rng.standard_normal((2, 12)).astype(np.float32)
        text = np.concatenate([x, np.broadcast_to(further, (2, 2, 12))], axis=1)
        plain, ours = both("MultiHeadSelfAttention", 12, 3), both("PersistentMemoryAttention", 12, 3, 2)
        with torch.no_grad():
            ours[0].memory_key.copy_(plain[0].k_proj(torch.from_numpy(further)))
            ours[0].memory_value.copy_(plain[0].v_proj(torch.from_numpy(further)))
        expected = [(output[:, :LENGTH], weights[:, :, :LENGTH]) for output, weights in run(plain, text)]
        assert_equal(run((ours[0], transfer(*ours)), x), expected)

    @pytest.mark.slow
    def test_fully_masked_row_attends_only_to_memories(self, x):
        mask = np.tril(np.ones((LENGTH, LENGTH), bool))
        mask[3] = False
        ours, theirs = both("PersistentMemoryAttention", 12, 3, 2)
        for _, weights in run((ours, theirs), x, mask=mask):
            assert not weights[:, :, 3, :LENGTH].any()
            np.testing.assert_allclose(weights[:, :, 3, LENGTH:].sum(-1), 1.0, atol=2 * EPS)
        for output, _ in run((ours, theirs), x, mask=np.zeros((LENGTH, LENGTH), bool)):
            keys = ours.memory_key.detach().numpy().reshape(2, 3, 4)
            values = ours.memory_value.detach().numpy().reshape(2, 3, 4)
            query = ours.q_proj(torch.from_numpy(x)).detach().numpy().reshape(2, LENGTH, 3, 4)
            shares = np.exp(np.einsum("blhd,mhd->bhlm", query, keys) / 2)
            heads = np.einsum("bhlm,mhd->blhd", shares / shares.sum(-1, keepdims=True), values)
            expected = ours.out_proj(torch.from_numpy(heads.reshape(2, LENGTH, 12))).detach().numpy()
            assert error(output, expected) < 8 * EPS

    @pytest.mark.slow
    def test_causal_query_attends_to_visible_keys_and_all_memories(self, x):
        seen = np.tril(np.ones((LENGTH, LENGTH), bool))
        padding = np.arange(LENGTH) < np.array([[LENGTH], [7]])
        causal = both("PersistentMemoryAttention", 12, 3, 2, is_causal=True)
        free = both("PersistentMemoryAttention", 12, 3, 2)
        assert_equal(run(causal, x), run(free, x, mask=seen))
        shown = seen & padding[:, None]
        assert_equal(run(causal, x, mask=padding[:, None, None]), run(free, x, mask=shown))
        for _, weights in run(causal, x):
            assert (weights[..., LENGTH:] > 0).all()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "position",
        [rotary, lambda m: m.ALiBi(3), lambda m: m.T5Bias(3), lambda m: m.ShawEmbedding(4, 3)],
        ids=["rotary", "ALiBi", "T5", "Shaw"],
    )
    def test_memories_have_no_position(self, position, x):
        ours, theirs = both("PersistentMemoryAttention", 12, 3, 2, position=position)
        with torch.no_grad():
            query, key = (
                proj(torch.from_numpy(x)).reshape(2, LENGTH, 3, 4).transpose(1, 2)
                for proj in (ours.q_proj, ours.k_proj)
            )
            placed = ours.position(query, key, None, None)
            memories = ours.memory_key.reshape(2, 3, 4).transpose(0, 1)
            scores = placed.query @ placed.key.mT / 2 + (0.0 if placed.bias is None else placed.bias)
            scores = torch.cat([scores, placed.query @ memories.mT / 2], dim=-1)
            expected = torch.softmax(scores.double(), dim=-1).numpy()
        for _, weights in run((ours, theirs), x):
            assert error(weights, expected) < 100 * EPS


class TestStreaming:
    @pytest.fixture
    def streaming(self):
        return both("StreamingAttention", 12, 3, 3, 2, position=rotary)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "position",
        [None, rotary, lambda m: m.ALiBi(3), lambda m: m.T5Bias(3), lambda m: m.ShawEmbedding(4, 3)],
        ids=["none", "rotary", "ALiBi", "T5", "Shaw"],
    )
    def test_streaming_is_causal_attention_to_the_cached_tokens(self, position, x):
        """The cached tokens are treated as a text of their own, with positions from 0."""
        streaming = run(both("StreamingAttention", 12, 3, 3, 2, position=position), x)
        plain = both("CausalSelfAttention", 12, 3, position=position)
        held = [[0, 1, i - 2, i - 1, i] for i in range(4, LENGTH)]
        texts = np.concatenate([x[:, cache] for cache in held])  # (positions * batch) cache features
        for (output, weights), (expected, of_cache) in zip(streaming, run(plain, texts), strict=True):
            for i, cache in enumerate(held, start=4):
                these = slice(2 * (i - 4), 2 * (i - 3))
                assert error(output[:, i], expected[these, -1]) < 8 * EPS
                assert error(weights[:, :, i, cache], of_cache[these, :, -1]) < 8 * EPS

    @pytest.mark.slow
    def test_later_tokens_do_not_change_earlier_outputs(self, streaming, x):
        for (whole, _), (part, _) in zip(run(streaming, x), run(streaming, x[:, :7].copy()), strict=True):
            assert error(part, whole[:, :7]) < 8 * EPS

    def test_evicted_tokens_have_no_influence_and_sinks_do(self, streaming, x):
        changed = x.copy()
        changed[:, 2:5] += 1.0
        for (before, _), (after, _) in zip(run(streaming, x), run(streaming, changed), strict=True):
            np.testing.assert_array_equal(before[:, 8:], after[:, 8:])
        changed = x.copy()
        changed[:, 0] += 1.0
        for (before, _), (after, _) in zip(run(streaming, x), run(streaming, changed), strict=True):
            assert (np.abs(before - after).max(axis=-1) > 0).all()

    def test_repeated_text_has_the_same_weights_at_every_position(self, streaming, x):
        """Positions in the cache keep the distance to the sinks constant; positions in the text would increase it."""
        x = np.concatenate([x[:, :2], np.repeat(x[:, 2:3], LENGTH - 2, axis=1)], axis=1)
        for _, weights in run(streaming, x):
            full = [[0, 1, i - 2, i - 1, i] for i in range(5, LENGTH)]
            seen = np.stack(
                [weights[:, :, i, js] for i, js in zip(range(5, LENGTH), full, strict=True)], axis=2
            )
            np.testing.assert_allclose(seen, np.broadcast_to(seen[:, :, :1], seen.shape), rtol=2e-5)

    def test_positions_in_the_text_give_another_output(self, streaming, x):
        mask = np.asarray(torch_attention.streaming_mask(LENGTH, num_sinks=2, window=3))
        [(other, _), _] = run(both("CausalSelfAttention", 12, 3, position=rotary), x, mask=mask)
        for output, _ in run(streaming, x):
            assert error(output[:, :5], other[:, :5]) < 8 * EPS  # nothing has been evicted from the cache yet
            assert error(output[:, 5:], other[:, 5:]) > 1e-2


class TestBigBird:
    @pytest.mark.slow
    def test_random_block_is_visible_only_to_its_head_and_block(self):
        blocks = np.full((3, 6, 1), -1, np.int32)
        blocks[1, 1] = 4
        for mirror, array in ((torch_attention, torch.from_numpy), (jax_attention, jnp.asarray)):
            before = np.asarray(mirror.block_sparse_mask(6, 2))
            after = np.asarray(mirror.block_sparse_mask(6, 2, array(blocks)))
            more = np.argwhere(after & ~before)
            assert more.tolist() == [[0, 1, i, j] for i in (2, 3) for j in (8, 9)]

    def test_random_block_that_is_already_visible_adds_nothing(self, x):
        modules = both("BigBirdAttention", 12, 3, 2)
        again = np.zeros((3, 6, 2), np.int32)
        assert_equal(run(modules, x), run(modules, x, random_blocks=again))

    def test_random_blocks_are_equal_in_both_and_were_not_visible(self):
        draw = {"num_heads": 3, "num_blocks": 9, "num_random": 2, "window_blocks": 3, "global_blocks": 1}
        ours = np.asarray(torch_attention.draw_random_blocks(**draw, seed=4))
        np.testing.assert_array_equal(ours, np.asarray(jax_attention.draw_random_blocks(**draw, seed=4)))
        assert (ours != np.asarray(torch_attention.draw_random_blocks(**draw, seed=5))).any()
        seen = np.asarray(torch_attention.block_sparse_mask(9, 1))[0, 0]
        for h in range(3):
            for m in range(9):
                chosen = ours[h, m].tolist()
                if m in (0, 8):
                    assert chosen == [-1, -1]
                else:
                    assert len(set(chosen)) == 2
                    assert not seen[m, chosen].any()

    def test_missing_random_blocks_are_minus_one(self):
        drawn = torch_attention.draw_random_blocks(1, 5, 2)
        assert drawn.tolist() == [[[-1, -1], [3, -1], [-1, -1], [1, -1], [-1, -1]]]

    def test_random_blocks_may_be_traced(self, x):
        _, theirs = both("BigBirdAttention", 12, 3, 2)
        graphdef, state = nnx.split(theirs)
        blocks = jax_attention.draw_random_blocks(3, 6, 1)
        run_jit = jax.jit(lambda s, x, b: nnx.merge(graphdef, s)(x, random_blocks=b).output)
        eager = theirs(jnp.asarray(x), random_blocks=blocks).output
        assert error(np.asarray(run_jit(state, jnp.asarray(x), blocks)), np.asarray(eager)) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("mirror", ["torch", "jax"])
@pytest.mark.parametrize("name", ["local_global_mask", "block_sparse_mask"])
def test_docstring_matrices_are_the_values_of_their_expressions(name, mirror):
    package, array = {
        "torch": (torch_attention, torch.tensor),
        "jax": (jax_attention, jnp.asarray),
    }[mirror]
    found = examples(inspect.getdoc(getattr(package, name)))
    assert found
    for expression, matrix in found:
        mask = np.asarray(eval(expression, {**vars(package), "array": array}))
        np.testing.assert_array_equal(mask[:, 0], np.array(matrix, bool), err_msg=expression)


@pytest.mark.parametrize(
    ("name", "options", "changed"),
    [
        ("SlidingWindowAttention", {"window": 3}, {"window": 4}),
        ("ChunkedAttention", {"chunk_size": 3}, {"chunk_size": 4}),
        ("LongformerAttention", {"one_sided_window": 1}, {"one_sided_window": 2}),
        ("BigBirdAttention", {"block_size": 2}, {"block_size": 1}),
        ("PersistentMemoryAttention", {"num_memories": 1}, {"num_memories": 2}),
        ("StreamingAttention", {"window": 3, "num_sinks": 1}, {"window": 3, "num_sinks": 2}),
        ("StreamingAttention", {"window": 3, "num_sinks": 1}, {"window": 4, "num_sinks": 1}),
    ],
)
def test_changed_pattern_changes_the_output(name, options, changed, x):
    for (one, _), (other, _) in zip(
        run(both(name, 12, 3, **options), x), run(both(name, 12, 3, **changed), x), strict=True
    ):
        assert error(one, other) > 1e-2


CLASSES = {  # constructor arguments after 6 features and 3 heads
    "SlidingWindowAttention": (2,),
    "ChunkedAttention": (2,),
    "LongformerAttention": (1,),
    "BigBirdAttention": (2,),
    "LearnedSinkAttention": (),
    "PersistentMemoryAttention": (1,),
    "StreamingAttention": (2,),
}
COLUMNS = {"PersistentMemoryAttention": 7}  # key columns of the weights for 6 keys, where there are more
NO_WINDOW = "window must be at least 1 (it counts the query's own key), got {}"
NOT_DIVISIBLE = "{0} must be divisible by {1}, got {0}={2} and {1}={3}"
NOT_CAUSAL = "window counts keys backwards from the query and needs is_causal=True, got is_causal=False"
NO_MIDDLE = "window_blocks must be odd (the query's own block and equally many on each side), got {}"
NOT_BOOLEAN = (
    "mask must be boolean (True: the query attends to the key), got float32; "
    ".bool() or .astype(bool) converts it, additive values go in bias"
)
NO_GLOBAL = (
    "global_tokens must be boolean (True: the token attends to all tokens, and all attend to it), got int32"
)
RANDOM = "random_blocks must have shape (heads, blocks, random) = (3, 3, any), got {}"
MASK = (
    "mask must have shape (query, key) = (6, 6), (batch, query, key) = (2, 6, 6) or "
    "(batch|1, heads|1, query|1, key|1) = (2, 3, 6, 6), got (6, 5)"
)


def made(name, *args, **options):
    """A function that makes a module, or a mask, in a mirror."""
    return lambda m: partial(getattr(m, name), *args, **options)


IMPOSSIBLE = [
    *(
        Case(
            f"{name} with a window of {window}",
            made(name, 6, 3, window),
            ValueError,
            NO_WINDOW.format(window),
        )
        for name in ("SlidingWindowAttention", "StreamingAttention")
        for window in (0, -1)
    ),
    *(
        Case(
            f"{name} with 4 heads, and 3 of keys",
            made(name, 8, 4, *CLASSES[name], num_kv_heads=3),
            ValueError,
            NOT_DIVISIBLE.format("num_heads", "num_kv_heads", 4, 3),
        )
        for name in CLASSES
        if name not in ("LongformerAttention", "BigBirdAttention", "PersistentMemoryAttention")
    ),
    *(
        Case(
            f"{name} with heads that do not divide",
            made(name, 8, 3, *CLASSES[name]),
            ValueError,
            NOT_DIVISIBLE.format("embed_dim", "num_heads", 8, 3),
        )
        for name in CLASSES
    ),
    Case(
        "a stream with rows and columns",
        lambda m: partial(m.StreamingAttention, 12, 3, 2, position=m.AxialRotaryEmbedding(4)),
        ValueError,
        "position must take one coordinate, the position in the cache, got num_axes=2",
    ),
    *(
        Case(f"{name}{args} {options or ''}", made(name, *args, **options), ValueError, text)
        for name, args, options, text in (
            ("ChunkedAttention", (6, 3, 0), {}, "chunk_size must be at least 1, got 0"),
            ("LongformerAttention", (6, 3, 0), {}, "one_sided_window must be at least 1, got 0"),
            ("BigBirdAttention", (6, 3, 0), {}, "block_size must be at least 1, got 0"),
            ("BigBirdAttention", (6, 3, 2), {"window_blocks": 2}, NO_MIDDLE.format(2)),
            (
                "BigBirdAttention",
                (6, 3, 2),
                {"window_blocks": -1},
                "window_blocks must be at least 1, got -1",
            ),
            (
                "BigBirdAttention",
                (6, 3, 2),
                {"global_blocks": -1},
                "global_blocks must be at least 0, got -1",
            ),
            ("StreamingAttention", (6, 3, 2, -1), {}, "num_sinks must be at least 0, got -1"),
            ("PersistentMemoryAttention", (6, 3, 0), {}, "num_memories must be at least 1, got 0"),
            ("LearnedSinkAttention", (6, 3), {"window": 2}, NOT_CAUSAL),
            ("LearnedSinkAttention", (6, 3), {"window": 0, "is_causal": True}, NO_WINDOW.format(0)),
            ("sliding_window_mask", (5,), {"window": 0}, NO_WINDOW.format(0)),
            ("chunked_mask", (5,), {"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
            ("streaming_mask", (5,), {"num_sinks": 1, "window": 0}, NO_WINDOW.format(0)),
            ("streaming_mask", (5,), {"num_sinks": -2, "window": 3}, "num_sinks must be at least 0, got -2"),
            ("block_sparse_mask", (-1, 2), {}, "num_blocks must be at least 0, got -1"),
            ("block_sparse_mask", (5, 2), {"window_blocks": 4}, NO_MIDDLE.format(4)),
            ("draw_random_blocks", (3, 7, -1), {}, "num_random must be at least 0, got -1"),
        )
    ),
]


def look(name, *shape, **options):
    """A call of a module with 3 heads for one sequence of 6 features; each option becomes an array of ones."""

    def call(m):
        arrays = {key: m.ones(*axes, dtype=dtype) for key, (axes, dtype) in options.items()}
        return partial(getattr(m, name)(6, 3, *CLASSES[name]), m.nan(*shape), **arrays)

    return call


REFUSED = [
    *(
        Case(f"{name} with {fault}", look(name, *shape, **options), exception, text)
        for name in CLASSES
        for fault, shape, options, exception, text in (
            ("rank 2", (6, 6), {}, ValueError, "x must have shape (batch, length, 6), got (6, 6)"),
            ("another dim", (2, 6, 5), {}, ValueError, "x must have shape (batch, length, 6), got (2, 6, 5)"),
            ("numbers as a mask", (2, 6, 6), {"mask": ((6, 6), np.float32)}, TypeError, NOT_BOOLEAN),
            ("a wrong mask", (2, 6, 6), {"mask": ((6, 5), bool)}, ValueError, MASK),
            (
                "a wrong dropout mask",
                (2, 6, 6),
                {"dropout_keep": ((2, 1, 6, 6), bool)},
                ValueError,
                f"dropout_keep must have shape (2, 3, 6, {COLUMNS.get(name, 6)}), got (2, 1, 6, 6)",
            ),
        )
    ),
    *(
        Case(
            f"{name} with unused positions",
            look(name, 2, 6, 6, positions=((6,), np.int32)),
            ValueError,
            "positions need a position scheme that reads them, got position=None",
        )
        for name in CLASSES
        if name != "StreamingAttention"
    ),
    *(
        Case(
            f"global tokens of {shape} and {np.dtype(dtype)}",
            look("LongformerAttention", 2, 6, 6, global_tokens=(shape, dtype)),
            exception,
            text,
        )
        for shape, dtype, exception, text in (
            ((2, 6), np.int32, TypeError, NO_GLOBAL),
            ((2, 5), bool, ValueError, "global_tokens must have shape (batch, length) = (2, 6), got (2, 5)"),
        )
    ),
    Case(
        "a length that blocks do not divide",
        look("BigBirdAttention", 2, 5, 6),
        ValueError,
        NOT_DIVISIBLE.format("length", "block_size", 5, 2),
    ),
    *(
        Case(
            f"random blocks of {shape} and {np.dtype(dtype)}",
            look("BigBirdAttention", 2, 6, 6, random_blocks=(shape, dtype)),
            exception,
            text,
        )
        for shape, dtype, exception, text in (
            ((3, 3, 1), np.float32, TypeError, "random_blocks must hold integers, got float32"),
            ((3, 3, 1), bool, TypeError, "random_blocks must hold integers, got bool"),
            *(
                (shape, np.int32, ValueError, RANDOM.format(shape))
                for shape in ((2, 3, 1), (3, 1, 4), (3, 3))
            ),
            ((2, 3, 3, 1), np.int32, ValueError, RANDOM.format((2, 3, 3, 1))),
        )
    ),
    *(
        Case(f"{text} as text", lambda m, ones=ones: partial(m.mask_text, ones(m)), exception, text)
        for ones, exception, text in (
            (lambda m: m.ones(3, 3, dtype=np.float32), TypeError, NOT_BOOLEAN),
            (lambda m: m.ones(3), ValueError, "mask must have shape (..., query, key), got (3,)"),
        )
    ),
]


@as_shipped
@pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.name)
def test_impossible_patterns_raise_the_same_error(case):
    assert_impossible(case)


@pytest.mark.slow
@as_shipped
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_bad_input_raises_the_same_error(case):
    assert_refused(case)
