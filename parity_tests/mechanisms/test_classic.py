"""Attention of recurrent networks: special cases that equal simpler mechanisms, and bad input."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from attention_bridge.catalogue import Part
from attention_bridge.parity.comparison import error
from attention_bridge.parity.instances import build, jax_with
from attention_bridge.weights import transfer
from parity_tests.helpers.refusals import Case, assert_impossible, assert_refused

FIXTURE = Path(__file__).parents[1] / "fixtures" / "classic.safetensors"
BATCH, QUERY, KEY, QUERY_DIM, KEY_DIM, VALUE_DIM, HIDDEN = 2, 5, 7, 8, 10, 6, 9
CLOSE = 1e-12  # of float64
COMPARED = {"query_dim": QUERY_DIM, "key_dim": KEY_DIM, "hidden_dim": HIDDEN}
LOCATED = {**COMPARED, "num_filters": 4, "kernel_size": 3}
POOLING = {"embed_dim": KEY_DIM, "hidden_dim": HIDDEN}


def weights(rng, name, **arguments):
    """Random weights for a class, by their PyTorch names."""
    shapes = build(Part(name, arguments), "torch_attention", {"device": "meta"}).state_dict()
    return {key: 0.5 * rng.standard_normal(x.shape) for key, x in shapes.items()}


class Torch:
    """Float64 arrays and modules of PyTorch."""

    array = staticmethod(torch.from_numpy)

    def __call__(self, name, w, **arguments):
        return transfer(w, build(Part(name, arguments), "torch_attention", {"dtype": torch.float64}))


class Jax:
    """Float64 arrays and modules of JAX."""

    array = staticmethod(jnp.asarray)

    def __call__(self, name, w, **arguments):
        return jax_with(Part(name, arguments), w, {"param_dtype": "float64"})


@pytest.fixture(params=[Torch, Jax])
def mirror(request):
    with jax.enable_x64(True):
        yield request.param()


@pytest.fixture
def query_key_value(mirror, rng):
    shapes = (BATCH, QUERY, QUERY_DIM), (BATCH, KEY, KEY_DIM), (BATCH, KEY, VALUE_DIM)
    return [mirror.array(rng.standard_normal(shape)) for shape in shapes]


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def assert_close(given, expected):
    for one, other in zip(given, expected, strict=True):
        assert error(numpy(one), numpy(other)) < CLOSE


class TestLocationAwareAttention:
    @pytest.mark.slow
    def test_first_step_is_additive_attention_and_second_is_not(self, mirror, query_key_value, rng):
        w = weights(rng, "LocationAwareAttention", **LOCATED)
        located = mirror("LocationAwareAttention", w, **LOCATED)(*query_key_value)
        basic = {name: x for name, x in w.items() if not name.startswith("location")}
        additive = mirror("BasicAttention", basic, **COMPARED, bias=True)(*query_key_value)
        assert_close([located.output[:, :1], located.weights[:, :1]], [x[:, :1] for x in additive])
        assert error(numpy(located.weights[:, 1]), numpy(additive.weights[:, 1])) > 1e-2

    def test_every_step_is_additive_attention_without_filters(self, mirror, query_key_value, rng):
        w = weights(rng, "LocationAwareAttention", **LOCATED)
        w["location_conv.weight"][:] = 0.0
        located = mirror("LocationAwareAttention", w, **LOCATED)(*query_key_value)
        basic = {name: x for name, x in w.items() if not name.startswith("location")}
        assert_close(
            [located.output, located.weights],
            mirror("BasicAttention", basic, **COMPARED, bias=True)(*query_key_value),
        )

    @pytest.mark.slow
    def test_single_steps_with_state_equal_one_call(self, mirror, query_key_value, rng):
        w = weights(rng, "LocationAwareAttention", **LOCATED)
        attention = mirror("LocationAwareAttention", w, **LOCATED)
        query, key, value = query_key_value
        mask = mirror.array(rng.random((BATCH, QUERY, KEY)) < 0.7)
        expected, state = attention(query, key, value, mask), None
        for i in range(QUERY):
            output, state, step = attention(
                query[:, i : i + 1], key, value, mask[:, i : i + 1], previous=state
            )
            assert_close([output, step], [expected.output[:, i : i + 1], expected.weights[:, i : i + 1]])
        assert_close([state], [expected.state])
        assert_close([state], [expected.weights[:, -1]])

    def test_state_is_returned_without_weights(self, mirror, query_key_value, rng):
        w = weights(rng, "LocationAwareAttention", **LOCATED)
        attention = mirror("LocationAwareAttention", w, **LOCATED)
        output, state, none = attention(*query_key_value, need_weights=False)
        assert none is None
        assert_close([output, state], attention(*query_key_value)[:2])

    @pytest.mark.slow
    def test_filter_can_shift_attention_by_one_key_per_step(self, mirror, rng):
        # F reads the previous key; U and w give it a large score: from the third key on, attention moves right.
        sizes = {**LOCATED, "num_filters": 1}
        w = {name: np.zeros_like(x) for name, x in weights(rng, "LocationAwareAttention", **sizes).items()}
        w["location_conv.weight"][0, 0] = [1.0, 0.0, 0.0]
        w["location_proj.weight"][:] = 10.0
        w["score_proj.weight"][:] = 10.0
        attention = mirror("LocationAwareAttention", w, **sizes)
        arrays = [mirror.array(np.zeros((1, 3, QUERY_DIM))), mirror.array(np.zeros((1, KEY, KEY_DIM)))]
        previous = mirror.array(np.eye(KEY)[None, 2])
        walked = numpy(attention(*arrays, arrays[1], previous=previous).weights)[0]
        assert walked.argmax(axis=-1).tolist() == [3, 4, 5]

    def test_dropout_of_the_output_leaves_the_state_unchanged(self, mirror, query_key_value, rng):
        w = weights(rng, "LocationAwareAttention", **LOCATED)
        attention = mirror("LocationAwareAttention", w, **LOCATED, dropout=0.5)
        attention.eval()
        kept = rng.random((BATCH, QUERY, KEY)) < 0.5
        dropped = attention(*query_key_value, dropout_keep=mirror.array(kept))
        whole = attention(*query_key_value)
        assert_close(dropped[1:], whole[1:])
        mean = np.einsum("bqk,bkd->bqd", kept * numpy(whole.weights) / 0.5, numpy(query_key_value[2]))
        assert_close([dropped.output], [mean])

    @pytest.mark.slow
    def test_espnet_doubles_its_scores_by_default(self, mirror):
        found = load_file(FIXTURE)
        given = {name.removeprefix("given."): x for name, x in found.items() if name.startswith("given.")}
        given["query"] = given["query"][:, :1]
        w = {name: x for name, x in found.items() if "proj" in name or "conv" in name}
        sizes = {**COMPARED, "num_filters": 3, "kernel_size": 5}
        by_scale = []
        for scale in (1.0, 2.0):
            scaled = {**w, "score_proj.weight": scale * w["score_proj.weight"]}
            attention = mirror("LocationAwareAttention", scaled, **sizes)
            weights = attention(**{name: mirror.array(x) for name, x in given.items()}).weights
            by_scale.append(error(numpy(weights[:, 0]), found["doubled.weights"]))
        assert by_scale[0] > 1e-2
        assert by_scale[1] < CLOSE


class TestPointerAttention:
    def test_output_is_the_weights_of_additive_attention(self, mirror, query_key_value, rng):
        w = weights(rng, "PointerAttention", **COMPARED)
        query, key, value = query_key_value
        mask = mirror.array(rng.random((BATCH, QUERY, KEY)) < 0.7)
        output, pointed = mirror("PointerAttention", w, **COMPARED)(query, key, mask)
        additive = mirror("BasicAttention", w, **COMPARED)(query, key, value, mask)
        assert_close([output, pointed], [additive.weights] * 2)

    def test_output_has_the_dtype_of_the_query_and_weights_at_least_float32(self, rng):
        query, key = (torch.randn(BATCH, n, QUERY_DIM, dtype=torch.bfloat16) for n in (QUERY, KEY))
        sizes = {**COMPARED, "key_dim": QUERY_DIM}
        attention = build(Part("PointerAttention", sizes), "torch_attention", {"dtype": torch.bfloat16})
        output, pointed = attention(query, key)
        assert (output.dtype, pointed.dtype) == (torch.bfloat16, torch.float32)
        assert attention(query, key, need_weights=False).weights is None


class TestHierarchicalAttentionPooling:
    def test_pooling_is_additive_attention_with_a_zero_query(self, mirror, rng):
        w = weights(rng, "HierarchicalAttentionPooling", **POOLING)
        x = mirror.array(rng.standard_normal((BATCH, KEY, KEY_DIM)))
        mask = mirror.array(np.arange(KEY) < np.array([4, 7])[:, None, None, None])
        basic = {
            "q_proj.weight": np.zeros((HIDDEN, QUERY_DIM)),
            "k_proj.weight": w["hidden_proj.weight"],
            "k_proj.bias": w["hidden_proj.bias"],
            "score_proj.weight": w["score_proj.weight"],
        }
        query = mirror.array(rng.standard_normal((BATCH, 1, QUERY_DIM)))
        expected = mirror("BasicAttention", basic, **COMPARED, bias=True)(query, x, x, mask)
        assert_close(mirror("HierarchicalAttentionPooling", w, **POOLING)(x, mask), expected)

    @pytest.mark.slow
    def test_element_order_and_padding_do_not_matter(self, mirror, rng):
        pooling = mirror(
            "HierarchicalAttentionPooling", weights(rng, "HierarchicalAttentionPooling", **POOLING), **POOLING
        )
        x = rng.standard_normal((BATCH, KEY, KEY_DIM))
        expected = pooling(mirror.array(x)).output
        assert_close([pooling(mirror.array(x[:, ::-1].copy())).output], [expected])
        padded = np.concatenate([x, rng.standard_normal((BATCH, 3, KEY_DIM))], axis=1)
        mask = np.broadcast_to(np.arange(KEY + 3) < KEY, (BATCH, 1, 1, KEY + 3)).copy()
        assert_close([pooling(mirror.array(padded), mirror.array(mask)).output], [expected])
        assert error(numpy(pooling(mirror.array(padded)).output), numpy(expected)) > 1e-2

    def test_document_of_padding_only_is_zero(self, mirror, rng):
        pooling = mirror(
            "HierarchicalAttentionPooling", weights(rng, "HierarchicalAttentionPooling", **POOLING), **POOLING
        )
        x = mirror.array(rng.standard_normal((BATCH, KEY, KEY_DIM)))
        mask = np.ones((BATCH, 1, 1, KEY), bool)
        mask[1] = False
        output, pooled = map(numpy, pooling(x, mirror.array(mask)))
        assert output[0].any()
        assert not output[1].any()
        assert not pooled[1].any()


NOT_BOOLEAN = (
    "{} must be boolean (True: the query attends to the key), got float32; "
    ".bool() or .astype(bool) converts it, additive values go in bias"
)


def locate(m, *, query=(2, 5, 8), key=(2, 7, 10), value=(2, 7, 6), previous=None, **options):
    """A call of a location-aware layer."""
    attention = m.LocationAwareAttention(8, 10, 9, num_filters=4, kernel_size=3)
    previous = None if previous is None else m.nan(*previous)
    return partial(attention, m.nan(*query), m.nan(*key), m.nan(*value), previous=previous, **options)


def point(m, *, query=(2, 5, 8), key=(2, 7, 10), **options):
    """A call of a pointer-attention layer."""
    return partial(m.PointerAttention(8, 10, 9), m.nan(*query), m.nan(*key), **options)


def pool(m, *, x=(2, 7, 10), **options):
    """A call of a pooling layer."""
    return partial(m.HierarchicalAttentionPooling(10, 9), m.nan(*x), **options)


CASES = [
    Case(
        "weights of the step before for other keys",
        lambda m: locate(m, previous=(2, 5)),
        ValueError,
        "previous must have shape (2, 7), got (2, 5)",
    ),
    Case(
        "another number of keys than values",
        lambda m: locate(m, value=(2, 6, 6)),
        ValueError,
        "key and value must have the same length, got 7 and 6",
    ),
    Case(
        "a located mask of numbers",
        lambda m: locate(m, mask=m.nan(5, 7)),
        TypeError,
        NOT_BOOLEAN.format("mask"),
    ),
    Case(
        "a dropout mask of other weights",
        lambda m: locate(m, dropout_keep=m.ones(2, 7, 5)),
        ValueError,
        "dropout_keep must have shape (2, 5, 7), got (2, 7, 5)",
    ),
    Case(
        "queries of other features",
        lambda m: point(m, query=(2, 5, 10)),
        ValueError,
        "query must have shape (batch, length, 8), got (2, 5, 10)",
    ),
    Case(
        "keys of another batch",
        lambda m: point(m, key=(3, 7, 10)),
        ValueError,
        "key must have shape (2, length, 10), got (3, 7, 10)",
    ),
    Case(
        "a pointing mask of numbers",
        lambda m: point(m, mask=m.nan(5, 7)),
        TypeError,
        NOT_BOOLEAN.format("mask"),
    ),
    Case(
        "a pooling mask that is not of keys",
        lambda m: pool(m, mask=m.ones(2, 7)),
        ValueError,
        "mask must have shape (batch, 1, 1, key) = (2, 1, 1, 7) here, as padding_mask(tokens, pad_id) gives it, "
        "got (2, 7)",
    ),
    Case(
        "a pooling mask of numbers",
        lambda m: pool(m, mask=m.nan(2, 1, 1, 7)),
        TypeError,
        NOT_BOOLEAN.format("mask"),
    ),
]


@pytest.mark.usefixtures("as_shipped")
class TestBadInput:
    @pytest.mark.slow
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_bad_call_raises_the_same_error_in_both(self, case):
        assert_refused(case)

    def test_even_filter_size_raises(self):
        assert_impossible(
            Case(
                "a filter of even size",
                lambda m: partial(m.LocationAwareAttention, 8, 10, 9, num_filters=4, kernel_size=4),
                ValueError,
                "kernel_size must be odd, so that a filter has a centre, got 4",
            )
        )
