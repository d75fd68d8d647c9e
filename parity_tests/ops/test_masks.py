"""Mask builders: the matrices in their docstrings, a plain rule for each builder, and the laws of and, or, not."""

import inspect
import re
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_attention.masks
import torch_attention.masks
from attention_bridge.catalogue import CATALOGUE, select
from attention_bridge.parity import instances
from attention_bridge.parity.instances import is_float
from attention_bridge.parity.run import named_outputs

MIRRORS = {
    "torch": (torch_attention.masks, torch.tensor),
    "jax": (jax_attention.masks, jnp.asarray),
}
BUILDERS = sorted(
    name
    for name, function in vars(torch_attention.masks).items()
    if inspect.isfunction(function)
    and function.__module__ == "torch_attention.masks"
    and not name.startswith("_")
    and name != "mask_text"
)
ROW = re.compile(r"[01]( [01])*")

# JAX compiles every operation once per shape, so only a few shapes are used.
unhurried = settings(max_examples=25, deadline=None, derandomize=True)
lengths = st.sampled_from([(4, 4), (3, 5), (5, 2), (1, 7)])
offsets = st.integers(-4, 9)
windows = st.integers(1, 6)


def examples(docstring):
    """The `>>> expression`s of a docstring, each with its matrix: (batch, row, column)."""
    found = []
    for line in inspect.cleandoc(docstring).splitlines():
        text = line.strip()
        if text.startswith(">>> "):
            found.append((text.removeprefix(">>> "), [[]]))
            reading = True
        elif found and reading and ROW.fullmatch(text):
            found[-1][1][-1].append([int(entry) for entry in text.split()])
        elif found and reading and not text:
            found[-1][1].append([])
        else:
            reading = False
    return [(expression, [element for element in batch if element]) for expression, batch in found]


def in_both(build):
    """The result of `build(masks, array)` as a numpy array, asserted equal in both mirrors."""
    given = {name: np.asarray(build(masks, array)) for name, (masks, array) in MIRRORS.items()}
    assert given["torch"].dtype == given["jax"].dtype == bool
    np.testing.assert_array_equal(given["torch"], given["jax"])
    assert given["torch"].shape == given["jax"].shape
    return given["torch"]


def pairs(query_len, key_len, sees):
    """The matrix of a plain rule: for each query and key, whether the query attends to the key."""
    return np.array([[sees(i, j) for j in range(key_len)] for i in range(query_len)])


class TestDocstrings:
    @pytest.mark.parametrize("name", BUILDERS)
    def test_each_builder_shows_its_matrix(self, name):
        assert examples(getattr(torch_attention.masks, name).__doc__)

    @pytest.mark.parametrize("mirror", MIRRORS)
    @pytest.mark.parametrize("name", BUILDERS)
    def test_each_matrix_is_the_value_of_its_expression(self, name, mirror):
        masks, array = MIRRORS[mirror]
        for expression, matrix in examples(getattr(masks, name).__doc__):
            mask = np.asarray(eval(expression, {**vars(masks), "array": array}))
            mask = mask[None] if mask.ndim == 2 else mask[:, 0]  # batch row column
            np.testing.assert_array_equal(mask, np.array(matrix, dtype=bool), err_msg=expression)
            assert mask.shape == np.shape(matrix), expression

    @pytest.mark.parametrize("name", [None, *BUILDERS])
    def test_both_mirrors_have_the_same_docstring(self, name):
        ours, theirs = torch_attention.masks, jax_attention.masks
        if name is not None:
            ours, theirs = getattr(ours, name), getattr(theirs, name)
        assert ours.__doc__ == theirs.__doc__

    def test_wrong_matrix_in_a_docstring_is_detected(self):
        docstring = torch_attention.masks.causal_mask.__doc__.replace("1 1 1 0\n", "1 1 1 1\n", 1)
        [(expression, matrix), *_] = examples(docstring)
        mask = eval(expression, vars(torch_attention.masks))
        assert mask.tolist() != np.array(matrix[0], dtype=bool).tolist()


class TestRules:
    @unhurried
    @given(lengths, offsets, st.booleans())
    def test_causal(self, sizes, offset, as_array):
        mask = in_both(
            lambda masks, array: masks.causal_mask(*sizes, query_offset=array(offset) if as_array else offset)
        )
        np.testing.assert_array_equal(mask, pairs(*sizes, lambda i, j: j <= i + offset))

    @unhurried
    @given(lengths, offsets, windows, st.booleans())
    def test_sliding_window(self, sizes, offset, window, as_array):
        mask = in_both(
            lambda masks, array: masks.sliding_window_mask(
                *sizes, window=window, query_offset=array(offset) if as_array else offset
            )
        )
        np.testing.assert_array_equal(mask, pairs(*sizes, lambda i, j: 0 <= i + offset - j < window))

    @unhurried
    @given(windows)
    def test_window_is_the_number_of_visible_keys(self, window):
        mask = in_both(lambda masks, array: masks.sliding_window_mask(7, window=window))
        assert mask.sum(axis=1).tolist() == [min(i + 1, window) for i in range(7)]
        assert mask.diagonal().all()

    @unhurried
    @given(lengths, offsets, windows)
    def test_chunked(self, sizes, offset, chunk_size):
        mask = in_both(
            lambda masks, array: masks.chunked_mask(*sizes, chunk_size=chunk_size, query_offset=offset)
        )
        chunks = [range(start, start + chunk_size) for start in range(-6 * chunk_size, 30, chunk_size)]
        same = pairs(*sizes, lambda i, j: j <= i + offset and any(i + offset in c and j in c for c in chunks))
        np.testing.assert_array_equal(mask, same)

    @unhurried
    @given(lengths, offsets, windows, st.integers(0, 4))
    def test_streaming(self, sizes, offset, window, num_sinks):
        mask = in_both(
            lambda masks, array: masks.streaming_mask(
                *sizes, num_sinks=num_sinks, window=window, query_offset=offset
            )
        )
        assert mask.shape == sizes
        for i, seen in enumerate(mask):
            so_far = list(range(max(0, i + offset + 1)))
            held = {*so_far[:num_sinks], *so_far[-window:]}
            assert set(np.flatnonzero(seen)) == {j for j in held if j < sizes[1]}

    @unhurried
    @given(lengths, windows)
    def test_streaming_without_sinks_is_a_sliding_window(self, sizes, window):
        mask = in_both(lambda masks, array: masks.streaming_mask(*sizes, num_sinks=0, window=window))
        other = in_both(lambda masks, array: masks.sliding_window_mask(*sizes, window=window))
        np.testing.assert_array_equal(mask, other)

    @unhurried
    @given(lengths, st.integers(0, 8))
    def test_prefix(self, sizes, prefix):
        mask = in_both(lambda masks, array: masks.prefix_mask(*sizes, prefix_len=prefix))
        np.testing.assert_array_equal(mask, pairs(*sizes, lambda i, j: j <= i or j < prefix))

    @unhurried
    @given(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=2, max_size=3))
    def test_padding(self, tokens):
        mask = in_both(lambda masks, array: masks.padding_mask(array(tokens), 2))
        assert mask.shape == (len(tokens), 1, 1, 5)
        assert mask[:, 0, 0].tolist() == [[token != 2 for token in text] for text in tokens]

    @unhurried
    @given(st.lists(st.integers(0, 7), min_size=2, max_size=3))
    def test_length(self, lengths):
        mask = in_both(lambda masks, array: masks.length_mask(array(lengths), 5))
        assert mask.shape == (len(lengths), 1, 1, 5)
        assert mask[:, 0, 0].tolist() == [[j < length for j in range(5)] for length in lengths]

    @unhurried
    @given(
        st.lists(st.integers(0, 2), min_size=8, max_size=8),
        st.lists(st.integers(0, 2), min_size=10, max_size=10),
        st.booleans(),
    )
    def test_document(self, of_queries, of_keys, to_itself):
        of_queries, of_keys = np.reshape(of_queries, (2, 4)), np.reshape(of_keys, (2, 5))
        of_keys = of_queries if to_itself else of_keys
        mask = in_both(
            lambda masks, array: masks.document_mask(*map(array, [of_queries, of_keys][: 2 - to_itself]))
        )
        assert mask.shape == (2, 1, 4, of_keys.shape[1])
        for b in range(2):
            rule = pairs(4, of_keys.shape[1], lambda i, j, b=b: of_queries[b, i] == of_keys[b, j])
            np.testing.assert_array_equal(mask[b, 0], rule)

    def test_key_len_defaults_to_query_len(self):
        for name, extra in {
            "causal_mask": {},
            "sliding_window_mask": {"window": 2},
            "chunked_mask": {"chunk_size": 2},
            "streaming_mask": {"num_sinks": 1, "window": 2},
            "prefix_mask": {"prefix_len": 3},
        }.items():
            square = in_both(lambda masks, array, name=name, extra=extra: getattr(masks, name)(5, **extra))
            full = in_both(lambda masks, array, name=name, extra=extra: getattr(masks, name)(5, 5, **extra))
            np.testing.assert_array_equal(square, full)

    def test_prefix_per_batch_element_follows_the_docstring(self):
        mask = in_both(
            lambda masks, array: masks.or_masks(masks.causal_mask(5), masks.length_mask(array([3, 1]), 5))
        )
        for element, prefix in zip(mask, (3, 1), strict=True):
            each = in_both(lambda masks, array, n=prefix: masks.prefix_mask(5, prefix_len=n))
            np.testing.assert_array_equal(element[0], each)

    def test_offset_may_be_traced(self):
        masks = jax_attention.masks
        traced = jax.jit(lambda offset: masks.sliding_window_mask(3, 7, window=2, query_offset=offset))
        for offset in (0, 4):
            expected = masks.sliding_window_mask(3, 7, window=2, query_offset=offset)
            np.testing.assert_array_equal(traced(offset), expected)

    def test_torch_builds_masks_on_the_given_device(self):
        masks, meta = torch_attention.masks, torch.device("meta")
        assert masks.causal_mask(3, device=meta).device == meta
        assert masks.sliding_window_mask(3, window=2, device=meta).device == meta
        assert masks.chunked_mask(3, chunk_size=2, device=meta).device == meta
        assert masks.streaming_mask(3, num_sinks=1, window=2, device=meta).device == meta
        assert masks.prefix_mask(3, prefix_len=2, device=meta).device == meta
        assert masks.length_mask(torch.empty(2, dtype=torch.int64, device=meta), 5).device == meta


class TestText:
    @pytest.mark.parametrize("mirror", MIRRORS)
    @pytest.mark.parametrize("name", BUILDERS)
    def test_mask_text_matches_the_docstrings(self, name, mirror):
        masks, array = MIRRORS[mirror]
        docstring = inspect.cleandoc(getattr(masks, name).__doc__).replace("    ", "")
        for expression, _ in examples(docstring):
            text = masks.mask_text(eval(expression, {**vars(masks), "array": array}))
            assert f">>> {expression}\n{text}\n" in f"{docstring}\n"

    @pytest.mark.parametrize("mirror", MIRRORS)
    def test_docstring_of_mask_text_shows_its_output(self, mirror, capsys):
        masks, _ = MIRRORS[mirror]
        [(expression, matrix)] = examples(masks.mask_text.__doc__)
        eval(expression, vars(masks))
        printed = capsys.readouterr().out
        assert [[int(entry) for entry in line.split()] for line in printed.splitlines()] == matrix[0]

    @pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
    def test_mask_text_shows_every_matrix_in_order(self, shape, rng):
        mask = rng.random(shape) < 0.5
        for masks, array in MIRRORS.values():
            blocks = masks.mask_text(array(mask)).split("\n\n")
            read = [[[int(entry) for entry in row.split()] for row in block.splitlines()] for block in blocks]
            np.testing.assert_array_equal(np.array(read, bool).reshape(shape), mask)


SHAPES = {
    "(query, key)": (5, 7),
    "(batch, query, key)": (2, 5, 7),
    "(batch, heads, query, key)": (2, 3, 5, 7),
    "(1, heads, 1, key)": (1, 3, 1, 7),
    "(batch, 1, query, 1)": (2, 1, 5, 1),
}


@st.composite
def some_masks(draw, count):
    """`count` random masks, each of any shape that a mask may have."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = draw(st.lists(st.sampled_from(list(SHAPES.values())), min_size=count, max_size=count))
    return [rng.random(shape) < 0.5 for shape in shapes]


def four_axes(mask):
    """The mask as `(batch|1, heads|1, query|1, key|1)`, by its rank alone."""
    return {2: mask[None, None], 3: mask[:, None], 4: mask}[mask.ndim]


def seen(mask):
    """The visible keys of each query and head: `(batch, heads, query, key)`."""
    return np.broadcast_to(four_axes(mask), (2, 3, 5, 7))


class TestLaws:
    @unhurried
    @given(some_masks(3))
    def test_and_is_visible_where_every_mask_is(self, drawn):
        mask = in_both(lambda masks, array: masks.and_masks(*map(array, drawn)))
        np.testing.assert_array_equal(seen(mask), reduce(np.logical_and, map(seen, drawn)))

    @unhurried
    @given(some_masks(3))
    def test_or_is_visible_where_any_mask_is(self, drawn):
        mask = in_both(lambda masks, array: masks.or_masks(*map(array, drawn)))
        np.testing.assert_array_equal(seen(mask), reduce(np.logical_or, map(seen, drawn)))

    @unhurried
    @given(some_masks(1))
    def test_not_inverts_the_mask_and_twice_restores_it(self, drawn):
        [mask] = drawn
        np.testing.assert_array_equal(in_both(lambda masks, array: masks.not_mask(array(mask))), ~mask)
        twice = in_both(lambda masks, array: masks.not_mask(masks.not_mask(array(mask))))
        np.testing.assert_array_equal(twice, mask)

    @unhurried
    @given(some_masks(2))
    def test_de_morgan(self, drawn):
        def not_and(masks, array):
            return masks.not_mask(masks.and_masks(*map(array, drawn)))

        def or_not(masks, array):
            return masks.or_masks(*(masks.not_mask(array(mask)) for mask in drawn))

        np.testing.assert_array_equal(in_both(not_and), in_both(or_not))

    @unhurried
    @given(some_masks(2))
    def test_order_does_not_matter(self, drawn):
        for name in ("and_masks", "or_masks"):
            mask = in_both(lambda masks, array, name=name: getattr(masks, name)(*map(array, drawn)))
            other = in_both(lambda masks, array, name=name: getattr(masks, name)(*map(array, drawn[::-1])))
            np.testing.assert_array_equal(mask, other)

    @pytest.mark.parametrize("name", ["and_masks", "or_masks"])
    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    def test_single_mask_is_unchanged(self, name, shape, rng):
        mask = rng.random(shape) < 0.5
        alone = in_both(lambda masks, array: getattr(masks, name)(array(mask)))
        np.testing.assert_array_equal(alone, mask)
        assert alone.shape == shape

    @pytest.mark.parametrize("name", ["and_masks", "or_masks"])
    @pytest.mark.parametrize(
        ("first", "second", "expected"),
        [
            ((5, 7), (5, 7), (5, 7)),
            ((2, 5, 7), (2, 5, 7), (2, 5, 7)),
            ((5, 7), (2, 5, 7), (2, 1, 5, 7)),
            ((2, 5, 7), (1, 3, 1, 7), (2, 3, 5, 7)),
            ((5, 7), (2, 1, 1, 7), (2, 1, 5, 7)),
            ((1, 3, 1, 7), (2, 1, 5, 1), (2, 3, 5, 7)),
        ],
    )
    def test_axes_broadcast_and_differing_ranks_give_four_axes(self, name, first, second, expected, rng):
        drawn = [rng.random(shape) < 0.5 for shape in (first, second)]
        assert in_both(lambda masks, array: getattr(masks, name)(*map(array, drawn))).shape == expected

    def test_batch_of_a_rank_3_mask_is_never_read_as_heads(self, rng):
        of_batch, of_heads = rng.random((3, 5, 7)) < 0.5, rng.random((1, 3, 5, 7)) < 0.5
        mask = in_both(lambda masks, array: masks.and_masks(array(of_batch), array(of_heads)))
        np.testing.assert_array_equal(mask, of_batch[:, None] & of_heads)
        assert mask.shape == (3, 3, 5, 7)


@pytest.mark.parametrize("mechanism", [x for x in CATALOGUE if x.masks], ids=lambda each: each.name)
def test_mask_with_batch_1_broadcasts_in_torch(mechanism):
    arrays = {
        name: torch.from_numpy(x).float() if is_float(x) else torch.from_numpy(x)
        for name, x in instances.inputs(mechanism, "padding").items()
    }
    shared = {name: x[:1] if name in mechanism.masks else x for name, x in arrays.items()}
    repeated = {name: shared[name].expand_as(x) for name, x in arrays.items()}
    module = instances.torch_module(mechanism, "float32")
    found, right = (next(iter(named_outputs(module(**each)).values())) for each in (shared, repeated))
    torch.testing.assert_close(found, right)


KEYS_ALONE = ["DeltaNet", "LSHAttention", "LinformerAttention", "NystromAttention", "SlotAttention"]


@pytest.mark.parametrize("name", KEYS_ALONE)
def test_mask_with_batch_1_broadcasts_in_jax(name):
    (mechanism,) = select([name])
    arrays = instances.inputs(mechanism, "padding")
    shared = {name: x[:1] if name in mechanism.masks else x for name, x in arrays.items()}
    repeated = {name: np.broadcast_to(shared[name], x.shape) for name, x in arrays.items()}
    module = instances.jax_module(mechanism, "float32")
    found, right = (
        next(iter(named_outputs(module(**jax.tree.map(jnp.asarray, each))).values()))
        for each in (shared, repeated)
    )
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)
