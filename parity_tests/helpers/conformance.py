"""The conformance suite for implementations of `dot_product_attention`; a class of a few lines adds one.

    class TestBlockwiseInJax(Conformance):
        mirror = JAX
        implementation = "blockwise"

`cannot` lists the unsupported features; the suite asserts that exactly these raise.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import jax_attention.ops
import torch_attention.ops
from attention_bridge import oracles

# Rounding to float32 has a relative error of at most u; a sum of n values errs by about sqrt(n) u.
UNIT_ROUND_OFF = 2.0**-24
FACTOR = 4


def to_torch(x):
    """A numpy array as a PyTorch tensor; other values unchanged."""
    if not isinstance(x, np.ndarray):
        return x
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(x))


def to_jax(x):
    """A numpy array as a JAX array; other values unchanged."""
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def torch_gradients(function, arguments):
    """Gradients of the sum of `function` with respect to all arguments."""
    leaves = {name: to_torch(x).requires_grad_() for name, x in arguments.items()}
    function(**leaves).sum().backward()
    return {name: numpy(leaf.grad) for name, leaf in leaves.items()}


def jax_gradients(function, arguments):
    """Gradients of the sum of `function` with respect to all arguments."""
    leaves = {name: to_jax(x) for name, x in arguments.items()}
    gradients = jax.jit(jax.grad(lambda leaves: function(**leaves).sum()))(leaves)
    return {name: numpy(gradient) for name, gradient in gradients.items()}


def numpy(x):
    """An array of either framework as a numpy array, in its own precision; bfloat16 becomes float32."""
    if isinstance(x, torch.Tensor):
        x = x.detach()
        return x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()
    return np.asarray(x)


@dataclass(frozen=True)
class Mirror:
    """One mirror's operations, called with numpy arrays."""

    ops: Any
    native: str
    array: Callable[[Any], Any]
    gradients: Callable[..., dict[str, np.ndarray]]
    double: Callable[[], contextlib.AbstractContextManager]

    def __call__(self, name, *arguments, **options):
        """Call the operation `name`; float64 stays float64."""
        function = getattr(self.ops, name)
        with self.double():
            return function(*map(self.array, arguments), **{k: self.array(v) for k, v in options.items()})

    def gradient(self, name, arguments, cotangent, **options):
        """Gradients of the sum of cotangent * result with respect to the named arguments."""
        function = getattr(self.ops, name)
        with self.double():
            fixed = {k: self.array(v) for k, v in options.items()}
            weight = self.array(cotangent)
            return self.gradients(lambda **moving: function(**moving, **fixed) * weight, arguments)


TORCH = Mirror(torch_attention.ops, "sdpa", to_torch, torch_gradients, contextlib.nullcontext)
JAX = Mirror(jax_attention.ops, "xla", to_jax, jax_gradients, functools.partial(jax.enable_x64, True))
MIRRORS = {"torch": TORCH, "jax": JAX}


def error(given, expected):
    """The error relative to the oracle's largest value; if that is 0, the result must be 0 too."""
    given, expected = numpy(given).astype(np.float64), np.asarray(expected)
    assert given.shape == expected.shape
    assert np.isfinite(given).all()
    largest = np.abs(expected).max(initial=0.0)
    if largest == 0.0:
        assert not given.any()
        return 0.0
    return np.abs(given - expected).max() / largest


def assert_equals_oracle(given, expected, longest):
    """Assert equality up to the rounding error of the dtype in sums of at most `longest` terms."""
    double = numpy(given).dtype == np.float64
    bound = 1e-12 if double else FACTOR * UNIT_ROUND_OFF * math.sqrt(longest)
    assert error(given, expected) <= bound


@dataclass(frozen=True)
class Sizes:
    """All sizes of one call; sizes differ unless they must be equal."""

    batch: tuple[int, ...]
    num_heads: int
    num_kv_heads: int
    query_len: int
    key_len: int
    head_dim: int
    value_dim: int

    @property
    def scores(self):
        return (*self.batch, self.num_heads, self.query_len, self.key_len)

    @property
    def longest(self):
        """Number of terms of the longest sum in the forward pass."""
        return max(self.head_dim, self.key_len)

    @property
    def longest_backward(self):
        """Number of terms of the longest sum in the backward pass."""
        return max(self.longest, self.value_dim, self.query_len * self.num_heads // self.num_kv_heads)

    @property
    def all_backward(self):
        """Number of terms of all sums forward and backward: three times the forward ones, as in the proof.

        In tiles, the two parts of a softmax gradient are summed over different features. They round differently, so the
        terms of all sums count.
        """
        return 3 * (self.head_dim + self.key_len)

    def draw(self, rng, dtype=np.float64):
        """Random query, key and value."""
        heads, kv_heads = (*self.batch, self.num_heads), (*self.batch, self.num_kv_heads)
        query = rng.standard_normal((*heads, self.query_len, self.head_dim))
        key = rng.standard_normal((*kv_heads, self.key_len, self.head_dim))
        value = rng.standard_normal((*kv_heads, self.key_len, self.value_dim))
        return {"query": query.astype(dtype), "key": key.astype(dtype), "value": value.astype(dtype)}


GROUPED = Sizes((2,), 6, 3, 5, 7, 4, 4)
WIDE = Sizes((2,), 3, 3, 7, 5, 4, 11)
NO_BATCH = Sizes((), 6, 2, 4, 5, 3, 3)
TWO_BATCH_AXES = Sizes((2, 3), 4, 1, 5, 7, 6, 9)
SQUARE = Sizes((2,), 6, 3, 7, 7, 4, 4)
LONG = Sizes((2,), 6, 3, 33, 47, 16, 16)
SOFTCAP = {"softcap": 1.5}
KEEP = {"dropout_keep": np.random.default_rng(0).random(GROUPED.scores) < 0.7, "dropout_rate": 0.25}
ALL_SIZES = {"grouped": GROUPED, "wide": WIDE, "no batch": NO_BATCH, "two batch axes": TWO_BATCH_AXES}


def oracle(query, key, value, bias=None, mask=None, **options):
    """The oracle's output and weights for any number of batch axes."""
    batch = query.shape[:-3]

    def flat(x):
        if x is None or x.ndim == 2:
            return x
        if x.ndim == query.ndim - 1:  # batch query key
            return np.asarray(x).reshape(math.prod(batch), *x.shape[-2:])
        x = np.broadcast_to(x, (*batch, *x.shape[-3:]))
        return x.reshape(math.prod(batch), *x.shape[-3:])

    double = [flat(x.astype(np.result_type(x.dtype, np.float64))) for x in (query, key, value)]
    keep = flat(options.pop("dropout_keep", None))
    results = oracles.dot_product_attention(*double, flat(bias), flat(mask), dropout_keep=keep, **options)
    return tuple(x.reshape(*batch, *x.shape[1:]) for x in results)


def shapes_of_masks(sizes):
    """Every shape that a mask or bias may have."""
    *batch, heads, query_len, key_len = sizes.scores
    ones = (1,) * len(batch)
    shapes = [
        (query_len, key_len),
        (*batch, query_len, key_len),
        (*batch, heads, query_len, key_len),
        (*batch, 1, 1, key_len),
        (*ones, heads, query_len, key_len),
        (*ones, heads, 1, key_len),
    ]
    return list(dict.fromkeys(shapes))


def in_dtype(arguments, dtype):
    """The arguments with floating-point arrays cast to that dtype."""

    def convert(x):
        return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

    return {name: convert(x) for name, x in arguments.items()}


DEAD_ROWS = {
    "a mask": {"mask": np.arange(5)[:, None] != np.array([[1] * 7])},
    "a bias": {"bias": np.where(np.arange(5)[:, None] == np.array([[3] * 7]), -np.inf, 0.5)},
    "a bias for some heads": {
        "bias": np.where(np.arange(6)[:, None, None] < 2, -np.inf, np.ones((1, 6, 1, 7)))
    },
    "queries before all keys": {"is_causal": True, "query_offset": -2},
    "a window past all keys": {"is_causal": True, "window": 2, "query_offset": 6},
    "a mask that shows only later keys": {"is_causal": True, "mask": np.triu(np.ones((5, 7), bool), 1)},
    "a mask and a bias together": {
        "mask": np.arange(7)[None] < np.full((5, 1), 3),
        "bias": np.where(np.arange(7) < 4, -np.inf, np.ones((5, 7))),
    },
}


def _word(options):
    """The feature that an implementation needs for these options."""
    offset = options.get("query_offset", 0)
    if isinstance(offset, int) and offset < 0:
        return "negative offset"
    if isinstance(offset, int) and options.get("window", 7) < offset:
        return "empty window"
    return next((name for name in ("bias", "mask") if name in options), "")


def draw(shape, seed=0):
    """Reproducible random values."""
    return np.random.default_rng(seed).standard_normal(shape)


VISIBLE = np.random.default_rng(4).random(GROUPED.scores) < 0.6
# One call per feature of the contract, with the word that `cannot` uses for the feature.
CASES = {
    "all keys": ("", GROUPED, {}),
    "causal": ("", GROUPED, {"is_causal": True}),
    "window": ("", GROUPED, {"is_causal": True, "window": 2}),
    "offset": ("", GROUPED, {"is_causal": True, "query_offset": 2}),
    "offset, an array": ("traced offset", GROUPED, {"is_causal": True, "query_offset": np.array(1)}),
    "scale": ("", GROUPED, {"scale": 0.3}),
    "mask of pairs": ("mask", GROUPED, {"mask": VISIBLE[0, 0]}),
    "mask of a batch": ("mask", GROUPED, {"mask": VISIBLE[:, 0]}),
    "mask of heads": ("mask", GROUPED, {"mask": VISIBLE, "is_causal": True}),
    "mask of keys": ("mask", GROUPED, {"mask": VISIBLE[:, :1, :1]}),
    "bias of pairs": ("bias", GROUPED, {"bias": draw((5, 7))}),
    "bias of heads": ("bias", GROUPED, {"bias": draw((1, 6, 1, 7)), "is_causal": True, "window": 3}),
    "bias that masks": ("bias", GROUPED, {"bias": np.where(VISIBLE, draw(VISIBLE.shape), -np.inf)}),
    "softcap": ("softcap", GROUPED, {"softcap": 1.5}),
    "sinks": ("sinks", GROUPED, {"sinks": draw(6)}),
    "dropout": ("dropout", GROUPED, KEEP),
    "wide values": ("wide values", WIDE, {"is_causal": True}),
    "no batch": ("", NO_BATCH, {"is_causal": True}),
    "two batch axes": ("two batch axes", TWO_BATCH_AXES, {}),
    **{f"dead rows by {name}": (_word(options), GROUPED, options) for name, options in DEAD_ROWS.items()},
}
EMPTY = {
    name: pytest.param(*case, id=name, marks=pytest.mark.slow)
    for name, case in CASES.items()
    if "dead" in name
}
every_case = pytest.mark.parametrize(("word", "sizes", "options"), CASES.values(), ids=CASES)


class Conformance:
    """The conformance suite.

    Attributes:
        mirror: the mirror of the implementation.
        implementation: its name; None for the automatic choice.
        cannot: the unsupported features.
        dtype: its most precise dtype.
        backward: whether it has gradients.
        tiled: whether gradients are computed in tiles, so that all sums count and not only the longest.
        head_dim: size of keys and values in every case, for kernels that support few sizes; None for any.
    """

    mirror: ClassVar[Mirror]
    implementation: ClassVar[str | None]
    cannot: ClassVar[frozenset[str]] = frozenset()
    dtype: ClassVar[Any] = np.float64
    backward: ClassVar[bool] = True
    tiled: ClassVar[bool] = False
    head_dim: ClassVar[int | None] = None

    def call(self, arrays, **options):
        """Call the implementation with numpy arrays."""
        return self.mirror("dot_product_attention", **arrays, **options, implementation=self.implementation)

    def needs(self, *words, backward=False):
        """Skip a test of unsupported features, which `test_output_equals_the_oracle_or_raises` covers."""
        if missing := self.cannot & set(words):
            pytest.skip(f"{self.implementation} has no {', '.join(sorted(missing))}")
        if backward and not self.backward:
            pytest.skip(f"{self.implementation} has no backward pass here")

    def fit(self, sizes):
        """The sizes of a case, adapted to the sizes that the implementation supports."""
        if self.head_dim is None:
            return sizes
        return replace(sizes, head_dim=self.head_dim, value_dim=self.head_dim)

    def given(self, sizes, options, rng):
        """Arrays and options of a case, in the dtype of the suite."""
        return in_dtype(sizes.draw(rng), self.dtype), in_dtype(options, self.dtype)

    @every_case
    def test_output_equals_the_oracle_or_raises(self, word, sizes, options, rng):
        sizes = self.fit(sizes)
        arrays, options = self.given(sizes, options, rng)
        if word in self.cannot:
            with pytest.raises(NotImplementedError) as refusal:
                self.call(arrays, **options)
            assert "\n" not in str(refusal.value)
            return
        output, weights = oracle(**arrays, **options)
        found = self.call(arrays, **options)
        assert_equals_oracle(found, output, sizes.longest)
        assert numpy(found).dtype == self.dtype
        assert not numpy(found)[~weights.any(axis=-1)].any()

    @pytest.mark.parametrize(
        ("word", "sizes", "options"),
        [EMPTY.get(name) or pytest.param(*case, id=name) for name, case in CASES.items()],
    )
    def test_gradients_equal_the_oracle(self, word, sizes, options, rng):
        self.needs(word, backward=True)
        sizes = self.fit(sizes)
        arrays, options = self.given(sizes, options, rng)
        arrays |= {name: options.pop(name) for name in ("bias", "sinks") if name in options}
        cotangent = rng.standard_normal((*sizes.scores[:-1], sizes.value_dim)).astype(self.dtype)
        expected = oracles.gradient(lambda tensors: oracle(**tensors, **options)[:1], arrays, [cotangent])
        call = {**options, "implementation": self.implementation}
        terms = sizes.all_backward if self.tiled else sizes.longest_backward
        for name, gradient in self.mirror.gradient(
            "dot_product_attention", arrays, cotangent, **call
        ).items():
            assert np.isfinite(gradient).all(), name
            assert_equals_oracle(gradient, expected[name], terms)

    @pytest.mark.parametrize("options", DEAD_ROWS.values(), ids=DEAD_ROWS)
    def test_fully_masked_rows_have_gradients_of_exactly_zero(self, options, rng):
        self.needs(_word(options), backward=True)
        arrays, options = self.given(self.fit(GROUPED), options, rng)
        arrays |= {name: options.pop(name) for name in ("bias",) if name in options}
        dead = ~oracle(**arrays, **options)[1].any(axis=-1)
        cotangent = rng.standard_normal((*dead.shape, arrays["value"].shape[-1])).astype(self.dtype)
        cotangent *= dead[..., None]
        call = {**options, "implementation": self.implementation}
        for name, gradient in self.mirror.gradient(
            "dot_product_attention", arrays, cotangent, **call
        ).items():
            assert not gradient.any(), name

    def test_later_tokens_do_not_change_earlier_outputs(self, rng):
        arrays, _ = self.given(self.fit(SQUARE), {}, rng)
        later = {name: x.copy() for name, x in arrays.items()}
        for x in later.values():
            x[:, :, 4:] = rng.standard_normal(x[:, :, 4:].shape)
        before, after = (numpy(self.call(x, is_causal=True)) for x in (arrays, later))
        np.testing.assert_array_equal(before[:, :, :4], after[:, :, :4])
        assert (before[:, :, 4:] != after[:, :, 4:]).all()

    @pytest.mark.parametrize("by", ["mask", "bias"])
    def test_masked_keys_and_values_change_nothing(self, by, rng):
        self.needs(by)
        seen = np.arange(7) < np.array([6, 4])[:, None, None, None]  # batch 1 1 key
        options = {"mask": seen} if by == "mask" else {"bias": np.where(seen, 0.5, -np.inf)}
        arrays, options = self.given(self.fit(GROUPED), options, rng)
        changed = {name: x.copy() for name, x in arrays.items()}
        for element, length in enumerate([6, 4]):
            for name in ("key", "value"):
                changed[name][element, :, length:] = 1e3 * rng.standard_normal(
                    (3, 7 - length, changed[name].shape[-1])
                )
        before, after = (numpy(self.call(x, **options)) for x in (arrays, changed))
        np.testing.assert_array_equal(before, after)

    def test_grouped_heads_repeat_the_key_and_value_heads(self, rng):
        arrays, _ = self.given(self.fit(GROUPED), {}, rng)
        grouped = numpy(self.call(arrays))

        def spread(spreading):
            return {name: x if name == "query" else spreading(x) for name, x in arrays.items()}

        repeated = spread(lambda x: np.repeat(x, 2, axis=1))
        tiled = spread(lambda x: np.tile(x, (1, 2, 1, 1)))
        assert_equals_oracle(self.call(repeated), grouped, GROUPED.longest)
        assert error(grouped, numpy(self.call(tiled))) > 1e-3

    @pytest.mark.parametrize("window", [None, 2])
    @pytest.mark.parametrize("as_array", [False, True])
    def test_offset_continues_a_sequence(self, as_array, window, rng):
        self.needs("traced offset" if as_array else "")
        arrays, _ = self.given(self.fit(SQUARE), {}, rng)
        full = numpy(self.call(arrays, is_causal=True, window=window))
        arrays["query"] = arrays["query"][:, :, 3:]
        offset = np.array(3) if as_array else 3
        rest = self.call(arrays, is_causal=True, window=window, query_offset=offset)
        assert_equals_oracle(rest, full[:, :, 3:], 7)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"is_causal": True, "window": 2},
            {"mask": np.tri(5, 7, 1, dtype=bool), "bias": np.linspace(-1, 1, 35).reshape(5, 7)},
        ],
        ids=["no mask", "causal", "mask and bias"],
    )
    def test_vmap_over_the_batch_equals_the_batched_call(self, options, rng):
        self.needs("vmap", *options)
        arrays, options = self.given(self.fit(GROUPED), options, rng)
        vmap = torch.func.vmap if self.mirror is TORCH else jax.vmap
        with self.mirror.double():
            fixed = {name: self.mirror.array(x) for name, x in options.items()}
            attend = self.mirror.ops.dot_product_attention
            one = functools.partial(attend, **fixed, implementation=self.implementation)
            found = vmap(one)(*map(self.mirror.array, arrays.values()))
        assert_equals_oracle(found, numpy(self.call(arrays, **options)), GROUPED.longest)

    def test_mask_may_be_mapped_too(self, rng):
        self.needs("vmap", "mask")
        arrays, _ = self.given(self.fit(GROUPED), {}, rng)
        mask = rng.random((2, 5, 7)) < 0.5
        mask[1, 2] = False
        vmap = torch.func.vmap if self.mirror is TORCH else jax.vmap

        def one(query, key, value, mask):
            attend = self.mirror.ops.dot_product_attention
            return attend(query, key, value, mask=mask, implementation=self.implementation)

        with self.mirror.double():
            found = vmap(one)(*map(self.mirror.array, [*arrays.values(), mask]))
        assert_equals_oracle(found, oracle(**arrays, mask=mask)[0], GROUPED.longest)

    @pytest.mark.parametrize("options", [{}, {"is_causal": True, "window": 9}], ids=["all keys", "window"])
    def test_bfloat16_is_as_precise_as_the_framework(self, options, rng):
        arrays = self.fit(LONG).draw(rng, ml_dtypes.bfloat16)
        with jax.default_matmul_precision("default"):  # the TPU kernel supports only this for 16 bits
            found = self.call(arrays, **options)
            native = native_error(self.mirror, arrays)
        assert error(found, oracle(**arrays, **options)[0]) <= 2 * native


def native_error(mirror, arrays):
    """The error of the framework's own operation without a mask."""
    query, key, value = (mirror.array(x) for x in arrays.values())
    if mirror is TORCH:
        output = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    else:
        query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
        output = jnp.swapaxes(jax.nn.dot_product_attention(query, key, value), 1, 2)
    return error(numpy(output), oracle(**arrays)[0])
