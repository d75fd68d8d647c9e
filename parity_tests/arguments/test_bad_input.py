"""Bad input raises the same exception with the same text in both mirrors, before any arithmetic.

These tests run without the shape checks of `make test-shapes`, which would raise first.
"""

from functools import partial

import numpy as np
import pytest

import jax_attention
from parity_tests.helpers.refusals import MIRRORS, Case, assert_impossible, assert_refused

pytestmark = pytest.mark.usefixtures("as_shipped")


def attend(m, *, query=(2, 6, 5, 4), key=(2, 3, 7, 4), value=(2, 3, 7, 4), **options):
    """A call of the operation; the sizes of all axes differ."""
    return partial(m.dot_product_attention, m.nan(*query), m.nan(*key), m.nan(*value), **options)


def look(m, *, query=(2, 5, 8), key=(2, 7, 10), value=(2, 7, 4), **options):
    """A call of a module that takes query, key and value."""
    return partial(m.BasicAttention(8, 10, 9), m.nan(*query), m.nan(*key), m.nan(*value), **options)


def self_attend(m, *shape, name="MultiHeadSelfAttention", **options):
    """A call of a module with 3 heads that takes one sequence."""
    return partial(getattr(m, name)(6, 3), m.nan(*shape), **options)


def cross_attend(m, *, query=(2, 5, 8), memory=(2, 7, 10), **options):
    """A call of a module with 3 heads that takes two sequences."""
    return partial(m.MultiHeadCrossAttention(8, 10, 6, 3), m.nan(*query), m.nan(*memory), **options)


def decode(m, *, x=(2, 5, 6), memory=(2, 7, 6), norm_first=False, **options):
    """A call of a decoder block with 3 heads."""
    block = m.EncoderDecoderAttention(6, 3, 8, norm_first=norm_first)
    return partial(block, m.nan(*x), m.nan(*memory), **options)


def encode(m, tokens, **options):
    """A call of an encoder with room for 7 positions."""
    config = m.EncoderConfig(vocab_size=11, embed_dim=6, num_heads=3, num_layers=1, ffn_dim=8, max_len=7)
    return partial(m.Encoder(config), tokens, **options)


NOT_KEPT = "dropout_keep must be boolean (True: the entry is kept), got {}"
NOT_BOOLEAN = (
    "{} must be boolean (True: the query attends to the key), got {}; "
    ".bool() or .astype(bool) converts it, additive values go in bias"
)
MASK = (
    "{} must have shape (query, key) = (5, 7), (batch, query, key) = (2, 5, 7) or "
    "(batch|1, heads|1, query|1, key|1) = {}, got {}"
)
ATTEND, LOOK, CROSS = (2, 6, 5, 7), (2, 1, 5, 7), (2, 3, 5, 7)

# A mask or bias must fit by its rank alone: no axis is transposed or guessed, and only the rank-4 form broadcasts.
WRONG_MASKS = {
    "transposed": (7, 5),
    "for one query": (7,),
    "transposed along the batch": (2, 7, 5),
    "with heads and no batch": (6, 5, 7),
    "with batch and heads exchanged": (6, 2, 5, 7),
    "with queries and keys exchanged": (2, 6, 7, 5),
    "of another batch": (3, 1, 5, 7),
    "of rank 5": (1, 2, 6, 5, 7),
}

CASES = [
    # masks and biases of the wrong shape
    *(
        Case(
            f"a mask {fault}",
            lambda m, shape=shape: attend(m, mask=m.ones(*shape)),
            ValueError,
            MASK.format("mask", ATTEND, shape),
        )
        for fault, shape in WRONG_MASKS.items()
    ),
    *(
        Case(
            f"a bias {fault}",
            lambda m, shape=shape: attend(m, bias=m.nan(*shape)),
            ValueError,
            MASK.format("bias", ATTEND, shape),
        )
        for fault, shape in WRONG_MASKS.items()
    ),
    Case(
        "a module's mask of the wrong shape",
        lambda m: look(m, mask=m.ones(7, 5)),
        ValueError,
        MASK.format("mask", LOOK, (7, 5)),
    ),
    Case(
        "a module's mask with heads and no batch",
        lambda m: cross_attend(m, mask=m.ones(3, 5, 7)),
        ValueError,
        MASK.format("mask", CROSS, (3, 5, 7)),
    ),
    Case(
        "a decoder's memory mask of the wrong shape",
        lambda m: decode(m, memory_mask=m.ones(7, 5)),
        ValueError,
        MASK.format("memory_mask", CROSS, (7, 5)),
    ),
    Case(
        "a decoder's self mask of the wrong shape",
        lambda m: decode(m, self_mask=m.ones(2, 5)),
        ValueError,
        "self_mask must have shape (query, key) = (5, 5), (batch, query, key) = (2, 5, 5) or "
        "(batch|1, heads|1, query|1, key|1) = (2, 3, 5, 5), got (2, 5)",
    ),
    Case(
        "an encoder's mask of the wrong shape",
        lambda m: encode(m, m.ones(2, 5, dtype=np.int32), mask=m.ones(2, 4, 5)),
        ValueError,
        "mask must have shape (query, key) = (5, 5), (batch, query, key) = (2, 5, 5) or "
        "(batch|1, heads|1, query|1, key|1) = (2, 3, 5, 5), got (2, 4, 5)",
    ),
    # masks that are not boolean
    *(
        Case(
            f"{where} of {dtype}",
            lambda m, call=call, dtype=dtype: call(m, m.ones(5, 7, dtype=dtype)),
            TypeError,
            (NOT_KEPT if name == "dropout_keep" else NOT_BOOLEAN.replace("{}", name, 1)).format(dtype),
        )
        for dtype in ("float32", "int32", "uint8")
        for where, name, call in [
            ("a mask", "mask", lambda m, x: attend(m, mask=x)),
            ("a module's mask", "mask", lambda m, x: look(m, mask=x)),
            ("a module's mask for heads", "mask", lambda m, x: cross_attend(m, mask=x)),
            ("a decoder's self mask", "self_mask", lambda m, x: decode(m, self_mask=x)),
            ("a decoder's memory mask", "memory_mask", lambda m, x: decode(m, memory_mask=x)),
            ("a dropout mask", "dropout_keep", lambda m, x: attend(m, dropout_keep=x)),
            ("a module's dropout mask", "dropout_keep", lambda m, x: look(m, dropout_keep=x)),
            ("a mask to combine", "mask", lambda m, x: partial(m.and_masks, m.ones(5, 7), x)),
            ("a mask to combine by or", "mask", lambda m, x: partial(m.or_masks, x, m.ones(5, 7))),
            ("a mask to negate", "mask", lambda m, x: partial(m.not_mask, x)),
        ]
    ),
    Case("no mask to combine", lambda m: m.and_masks, ValueError, "at least one mask is needed, got none"),
    Case(
        "no mask to combine by or", lambda m: m.or_masks, ValueError, "at least one mask is needed, got none"
    ),
    # dropout masks of the wrong shape
    Case(
        "a dropout mask of the wrong shape",
        lambda m: attend(m, dropout_keep=m.ones(2, 3, 5, 7)),
        ValueError,
        "dropout_keep must have shape (2, 6, 5, 7), got (2, 3, 5, 7)",
    ),
    Case(
        "a dropout mask of lower rank",
        lambda m: attend(m, dropout_keep=m.ones(5, 7)),
        ValueError,
        "dropout_keep must have shape (2, 6, 5, 7), got (5, 7)",
    ),
    Case(
        "a dropout mask with an axis for heads where there is none",
        lambda m: look(m, dropout_keep=m.ones(2, 1, 5, 7)),
        ValueError,
        "dropout_keep must have shape (2, 5, 7), got (2, 1, 5, 7)",
    ),
    Case(
        "a dropout mask without an axis for heads",
        lambda m: cross_attend(m, dropout_keep=m.ones(2, 5, 7)),
        ValueError,
        "dropout_keep must have shape (2, 3, 5, 7), got (2, 5, 7)",
    ),
    Case(
        "a decoder's dropout mask of the wrong shape",
        lambda m: decode(m, dropout_keep=m.DecoderKeep(cross_weights=m.ones(2, 3, 5, 5))),
        ValueError,
        "dropout_keep must have shape (2, 3, 5, 7), got (2, 3, 5, 5)",
    ),
    Case(
        "a mask of a dropout layer of the wrong shape",
        lambda m: partial(m.Dropout(0.25), m.nan(2, 5, 6), m.ones(2, 1, 6)),
        ValueError,
        "dropout_keep must have shape (2, 5, 6), got (2, 1, 6)",
    ),
    # arrays that do not fit one another
    Case(
        "a query without heads",
        lambda m: attend(m, query=(5, 4)),
        ValueError,
        "query must have shape (..., heads, length, head_dim), got (5, 4)",
    ),
    Case(
        "a key without heads",
        lambda m: attend(m, key=(7, 4)),
        ValueError,
        "key must have shape (..., heads, length, head_dim), got (7, 4)",
    ),
    Case(
        "a value without heads",
        lambda m: attend(m, value=(7, 4)),
        ValueError,
        "value must have shape (..., heads, length, head_dim), got (7, 4)",
    ),
    Case(
        "a query and key of other features",
        lambda m: attend(m, key=(2, 3, 7, 5)),
        ValueError,
        "query and key must have the same head_dim, got 4 and 5",
    ),
    Case(
        "a query and key of other batches",
        lambda m: attend(m, key=(3, 3, 7, 4)),
        ValueError,
        "query and key must have the same batch, got (2,) and (3,)",
    ),
    Case(
        "a query and key of other dtypes",
        lambda m: partial(
            m.dot_product_attention,
            m.nan(2, 3, 5, 4),
            m.array(np.full((2, 3, 7, 4), np.nan, np.float16)),
            m.nan(2, 3, 7, 4),
        ),
        ValueError,
        "query, key and value must have the same dtype, got float32, float16, float32",
    ),
    Case(
        "a query and key of other ranks",
        lambda m: attend(m, key=(3, 7, 4), value=(3, 7, 4)),
        ValueError,
        "query and key must have the same batch, got (2,) and ()",
    ),
    Case(
        "heads that the key's heads do not divide",
        lambda m: attend(m, key=(2, 4, 7, 4), value=(2, 4, 7, 4)),
        ValueError,
        "num_heads must be divisible by num_kv_heads, got num_heads=6 and num_kv_heads=4",
    ),
    Case(
        "more key heads than query heads",
        lambda m: attend(m, query=(2, 3, 5, 4), key=(2, 6, 7, 4), value=(2, 6, 7, 4)),
        ValueError,
        "num_heads must be divisible by num_kv_heads, got num_heads=3 and num_kv_heads=6",
    ),
    Case(
        "values of another length than the keys",
        lambda m: attend(m, value=(2, 3, 5, 4)),
        ValueError,
        "key and value must have the same batch, heads and length, got (2, 3, 7) and (2, 3, 5)",
    ),
    Case(
        "values of other heads than the keys",
        lambda m: attend(m, value=(2, 6, 7, 4)),
        ValueError,
        "key and value must have the same batch, heads and length, got (2, 3, 7) and (2, 6, 7)",
    ),
    # windows and implementations
    Case(
        "a window of no key",
        lambda m: attend(m, window=0, is_causal=True),
        ValueError,
        "window must be at least 1 (it counts the query's own key), got 0",
    ),
    Case(
        "a window that is not causal",
        lambda m: attend(m, window=3),
        ValueError,
        "window counts keys backwards from the query and needs is_causal=True, got is_causal=False",
    ),
    Case(
        "a mask with a window of no key",
        lambda m: partial(m.sliding_window_mask, 5, window=0),
        ValueError,
        "window must be at least 1 (it counts the query's own key), got 0",
    ),
    # sequences of modules
    Case(
        "a sequence without a batch",
        lambda m: self_attend(m, 5, 6),
        ValueError,
        "x must have shape (batch, length, 6), got (5, 6)",
    ),
    Case(
        "a sequence of other features",
        lambda m: self_attend(m, 2, 5, 7),
        ValueError,
        "x must have shape (batch, length, 6), got (2, 5, 7)",
    ),
    Case(
        "a causal sequence of other features",
        lambda m: self_attend(m, 2, 5, 7, name="CausalSelfAttention"),
        ValueError,
        "x must have shape (batch, length, 6), got (2, 5, 7)",
    ),
    Case(
        "a sequence of other features for one head",
        lambda m: partial(m.SelfAttention(6), m.nan(2, 5, 7)),
        ValueError,
        "x must have shape (batch, length, 6), got (2, 5, 7)",
    ),
    Case(
        "a sequence of other features to feed forward",
        lambda m: partial(m.FeedForward(6, 8), m.nan(2, 5, 7)),
        ValueError,
        "x must have shape (batch, length, 6) or (batch, height, width, 6), got (2, 5, 7)",
    ),
    Case(
        "a memory of another batch",
        lambda m: cross_attend(m, memory=(3, 7, 10)),
        ValueError,
        "memory must have shape (2, length, 10), got (3, 7, 10)",
    ),
    Case(
        "values of another length than their memory",
        lambda m: cross_attend(m, value=m.nan(2, 6, 10)),
        ValueError,
        "memory and value must have the same length, got 7 and 6",
    ),
    Case(
        "a memory of other features",
        lambda m: cross_attend(m, memory=(2, 7, 8)),
        ValueError,
        "memory must have shape (2, length, 10), got (2, 7, 8)",
    ),
    Case(
        "a query of other features",
        lambda m: cross_attend(m, query=(2, 5, 10)),
        ValueError,
        "query must have shape (batch, length, 8), got (2, 5, 10)",
    ),
    Case(
        "a key of other features",
        lambda m: look(m, key=(2, 7, 8)),
        ValueError,
        "key must have shape (2, length, 10), got (2, 7, 8)",
    ),
    Case(
        "a key of another batch",
        lambda m: look(m, key=(3, 7, 10)),
        ValueError,
        "key must have shape (2, length, 10), got (3, 7, 10)",
    ),
    Case(
        "values of another batch",
        lambda m: look(m, value=(3, 7, 4)),
        ValueError,
        "value must have shape (2, length, dim), got (3, 7, 4)",
    ),
    Case(
        "more values than keys",
        lambda m: look(m, value=(2, 9, 4)),
        ValueError,
        "key and value must have the same length, got 7 and 9",
    ),
    Case(
        "a query and key of other features without a score to join them",
        lambda m: partial(m.ScaledDotProductAttention(), m.nan(2, 5, 8), m.nan(2, 7, 10), m.nan(2, 7, 4)),
        ValueError,
        "key must have shape (2, length, 8), got (2, 7, 10)",
    ),
    *(
        Case(
            f"a key of other features for {name}",
            lambda m, name=name, sizes=sizes: partial(
                m.LuongAttention(getattr(m, name)(*sizes)), m.nan(2, 5, 8), m.nan(2, 7, 6), m.nan(2, 7, 4)
            ),
            ValueError,
            f"key must have shape (batch, length, {expected}), got (2, 7, 6)",
        )
        for name, sizes, expected in [
            ("DotScore", (), 8),
            ("GeneralScore", (8, 10), 10),
            ("ConcatScore", (8, 10, 9), 10),
        ]
    ),
    *(
        Case(
            f"a decoder's sequence of other features, norm_first={norm_first}",
            lambda m, norm_first=norm_first: decode(m, x=(2, 5, 7), norm_first=norm_first),
            ValueError,
            "x must have shape (batch, length, 6), got (2, 5, 7)",
        )
        for norm_first in (False, True)
    ),
    Case(
        "a decoder's memory of another batch",
        lambda m: decode(m, memory=(3, 7, 6)),
        ValueError,
        "memory must have shape (2, length, 6), got (3, 7, 6)",
    ),
    # tokens
    Case(
        "tokens without a batch",
        lambda m: encode(m, m.ones(5, dtype=np.int32)),
        ValueError,
        "tokens must have shape (batch, length), got (5,)",
    ),
    Case(
        "more tokens than positions",
        lambda m: encode(m, m.ones(2, 9, dtype=np.int32)),
        ValueError,
        "tokens must have at most max_len=7 positions, got 9",
    ),
    Case(
        "types for other tokens",
        lambda m: encode(m, m.ones(2, 5, dtype=np.int32), token_types=m.ones(1, 5, dtype=np.int32)),
        ValueError,
        "token_types must have the shape of tokens, (2, 5), got (1, 5)",
    ),
]

IMPOSSIBLE = [
    *(
        Case(
            f"{name}: features that heads={heads} do not divide",
            lambda m, name=name, sizes=sizes, heads=heads: partial(getattr(m, name), *sizes, heads),
            ValueError,
            f"embed_dim must be divisible by num_heads, got embed_dim=6 and num_heads={heads}"
            if heads > 0
            else f"num_heads must be at least 1, got {heads}",
        )
        for heads in (4, 0, -3)
        for name, sizes in [
            ("MultiHeadSelfAttention", (6,)),
            ("CausalSelfAttention", (6,)),
            ("MultiHeadCrossAttention", (8, 10, 6)),
            ("EncoderDecoderAttention", (6,)),
        ]
    ),
    *(
        Case(
            f"{name}: dropout={rate}",
            lambda m, name=name, sizes=sizes, rate=rate: partial(getattr(m, name), *sizes, dropout=rate),
            ValueError,
            f"dropout must be at least 0 and below 1, got {rate}",
        )
        for rate in (-0.25, 1.0, 1.5, float("nan"))
        for name, sizes in [
            ("BasicAttention", (8, 10, 9)),
            ("ScaledDotProductAttention", ()),
            ("SelfAttention", (6,)),
            ("MultiHeadSelfAttention", (6, 3)),
            ("CausalSelfAttention", (6, 3)),
            ("CrossAttention", (8, 10, 6)),
            ("MultiHeadCrossAttention", (8, 10, 6, 3)),
            ("EncoderDecoderAttention", (6, 3)),
            ("FeedForward", (6, 8)),
        ]
    ),
    Case(
        "a score with dropout=1",
        lambda m: partial(m.LuongAttention, m.DotScore(), dropout=1),
        ValueError,
        "dropout must be at least 0 and below 1, got 1",
    ),
    *(
        Case(
            f"{name}: an unknown activation",
            lambda m, name=name, sizes=sizes: partial(getattr(m, name), *sizes, activation="swish"),
            ValueError,
            "activation must be one of relu, relu_squared, gelu, gelu_tanh, quick_gelu, silu, tanh, got swish",
        )
        for name, sizes in [("FeedForward", (6, 8)), ("EncoderDecoderAttention", (6, 3))]
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_raises_the_same_error_before_any_arithmetic(case):
    assert_refused(case)


@pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.name)
def test_bad_module_arguments_raise_the_same_error(case):
    assert_impossible(case)


def test_unknown_implementation_raises_with_the_known_ones():
    for mirror, native in zip(MIRRORS.values(), ("sdpa, flex", "xla, cudnn, splash"), strict=True):
        call = attend(mirror, implementation="fastest")
        with mirror.nothing_runs(), pytest.raises(ValueError) as refusal:
            call()
        assert str(refusal.value) == (
            f"implementation must be None or one of reference, blockwise, ring, all_to_all, {native}, got fastest"
        )


def test_dropout_in_jax_needs_rngs():
    with pytest.raises(ValueError) as refusal:
        jax_attention.ScaledDotProductAttention(dropout=0.25)
    assert str(refusal.value) == "dropout=0.25 needs rngs to draw from, got None"


@pytest.mark.parametrize("mirror", MIRRORS.values(), ids=MIRRORS)
def test_arithmetic_before_the_check_is_detected(mirror):
    query, noticed = mirror.nan(2, 3, 5, 4), (AssertionError, FloatingPointError)
    with mirror.nothing_runs(), pytest.raises(noticed):
        mirror.dot_product_attention(query, query, query)
