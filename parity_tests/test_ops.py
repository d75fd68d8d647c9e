"""The operations: each implementation in both mirrors against the float64 oracle, and what the contract says."""

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_attention.ops
import torch_attention.ops
from attention_bridge import oracles

# Float32 numbers lie within u of what they stand for; a sum of n of them within about sqrt(n) u.
UNIT_ROUND_OFF = 2.0**-24
FACTOR = 4


def to_torch(x):
    """A numpy array, or anything else as it is, for PyTorch."""
    if not isinstance(x, np.ndarray):
        return x
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(x))


def to_jax(x):
    """A numpy array, or anything else as it is, for JAX."""
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
    """The numbers of an array of either framework, in its own precision."""
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


@pytest.fixture(params=MIRRORS)
def mirror(request):
    return MIRRORS[request.param]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles so small that every case has several of them, and some that are not full."""
    for ops in (torch_attention.ops, jax_attention.ops):
        monkeypatch.setattr(ops.blockwise, "ROWS", 4)
        monkeypatch.setattr(ops.blockwise, "COLUMNS", 3)


@pytest.fixture(params=["any", "reference", "blockwise", "native"])
def implementation(request, mirror):
    return {"any": None, "native": mirror.native}.get(request.param, request.param)


@pytest.fixture
def dtype(implementation):
    """The most precise that the implementation can do."""
    return np.float32 if implementation == JAX.native else np.float64


def error(given, expected):
    """How far from the oracle, relative to its largest number; where that is 0, so must be what is given."""
    given, expected = numpy(given).astype(np.float64), np.asarray(expected)
    assert given.shape == expected.shape
    assert np.isfinite(given).all()
    largest = np.abs(expected).max(initial=0.0)
    if largest == 0.0:
        assert not given.any()
        return 0.0
    return np.abs(given - expected).max() / largest


def assert_equals_oracle(given, expected, longest):
    """Within the criterion of its dtype, where the longest sum has `longest` terms."""
    double = numpy(given).dtype == np.float64
    bound = 1e-12 if double else FACTOR * UNIT_ROUND_OFF * math.sqrt(longest)
    assert error(given, expected) <= bound


@dataclass(frozen=True)
class Sizes:
    """All sizes of one call, no two alike but those that must be."""

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
        """Terms of the longest sum, forward."""
        return max(self.head_dim, self.key_len)

    @property
    def longest_backward(self):
        """Terms of the longest sum, backward."""
        return max(self.longest, self.value_dim, self.query_len * self.num_heads // self.num_kv_heads)

    @property
    def all_backward(self):
        """Terms of all sums there and back, three times the way as in `attention_bridge.parity`.

        Tile by tile, what a softmax takes off a gradient is summed over features and what it is taken from over
        other features, so that they do not round alike and all of the way counts.
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


@st.composite
def calls(draw):
    """Sizes and options of one call, of every kind that the contract knows."""
    sizes = draw(st.sampled_from(list(ALL_SIZES.values())))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    options: dict[str, Any] = {}
    shapes = st.sampled_from(shapes_of_masks(sizes))
    if draw(st.booleans()):
        options["mask"] = rng.random(draw(shapes)) < 0.6
    if draw(st.booleans()):
        bias = rng.standard_normal(draw(shapes))
        if draw(st.booleans()):
            bias[rng.random(bias.shape) < 0.2] = -np.inf
            bias[..., 0, :] = -np.inf
        options["bias"] = bias
    if draw(st.booleans()):
        options["is_causal"] = True
        options["query_offset"] = draw(st.sampled_from([0, 2, -2, np.array(1)]))
        if draw(st.booleans()):
            options["window"] = draw(st.sampled_from([1, 3, 20]))
    if draw(st.booleans()):
        options["scale"] = 0.3
    if draw(st.booleans()):
        options["softcap"] = 1.5
    if draw(st.booleans()):
        options["sinks"] = rng.standard_normal(sizes.scores[-3])
    if draw(st.booleans()):
        options["dropout_keep"] = rng.random(sizes.scores) < 0.7
        options["dropout_rate"] = 0.25
    return sizes, sizes.draw(rng), options


def can(mirror, sizes, options, dtype):
    """Whether the native kernel of a mirror can do the call."""
    if options.get("softcap") is not None or "dropout_keep" in options or "sinks" in options:
        return False
    is_plain = sizes.value_dim == sizes.head_dim and len(sizes.batch) < 2
    return mirror is TORCH or (is_plain and dtype not in (np.float64, "float64"))


def in_dtype(arguments, dtype):
    """The arguments with their floating-point arrays in that dtype."""

    def convert(x):
        return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

    return {name: convert(x) for name, x in arguments.items()}


def implementations(mirror, sizes, options, dtype):
    """Every implementation that can do the call, and None for the choice between them."""
    return ["reference", "blockwise", None, *([mirror.native] if can(mirror, sizes, options, dtype) else [])]


class TestAgainstTheOracle:
    # JAX compiles every operation once for each new shape, so shapes are few and examples not many.
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @settings(max_examples=14, deadline=None, derandomize=True)
    @given(call=calls())
    def test_every_call_gives_what_the_oracle_gives(self, dtype, call):
        sizes, arrays, options = call
        arrays, options = in_dtype(arrays, dtype), in_dtype(options, dtype)
        output, weights = oracle(**arrays, **options)
        pair = {name: arrays[name] for name in ("query", "key")}
        scoring = {name: x for name, x in options.items() if not name.startswith("dropout")}
        for mirror in MIRRORS.values():
            given = mirror("attend", **arrays, **options)
            assert_equals_oracle(given[0], output, sizes.longest)
            assert_equals_oracle(given[1], weights, sizes.longest)
            given = mirror("dot_product_attention_weights", **pair, **scoring)
            assert_equals_oracle(given, weights, sizes.longest)
            for name in implementations(mirror, sizes, options, dtype):
                given = mirror("dot_product_attention", **arrays, **options, implementation=name)
                assert_equals_oracle(given, output, sizes.longest)
                assert numpy(given).dtype == dtype

    @pytest.mark.parametrize("shape", shapes_of_masks(GROUPED), ids=str)
    @pytest.mark.parametrize("name", ["mask", "bias"])
    def test_every_shape_of_mask_and_bias(self, mirror, name, shape, rng):
        arrays = GROUPED.draw(rng, np.float32)
        x = rng.random(shape) < 0.6 if name == "mask" else rng.standard_normal(shape).astype(np.float32)
        output, weights = oracle(**arrays, **{name: x})
        given = mirror("attend", **arrays, **{name: x})
        assert_equals_oracle(given[0], output, GROUPED.longest)
        assert_equals_oracle(given[1], weights, GROUPED.longest)
        fastest = mirror("attend", **arrays, **{name: x}, need_weights=False)[0]
        assert_equals_oracle(fastest, output, GROUPED.longest)

    @pytest.mark.parametrize("sizes", ALL_SIZES.values(), ids=ALL_SIZES)
    def test_without_weights_there_is_the_same_output(self, mirror, sizes, rng):
        arrays = sizes.draw(rng)
        output, weights = mirror("attend", **arrays, is_causal=True, need_weights=False)
        assert weights is None
        assert_equals_oracle(output, oracle(**arrays, is_causal=True)[0], sizes.longest)

    def test_weighted_values(self, mirror, rng):
        arrays = WIDE.draw(rng)
        keep = rng.random(WIDE.scores) < 0.7
        output, weights = oracle(**arrays, dropout_keep=keep, dropout_rate=0.25)
        given = mirror("weighted_values", weights, arrays["value"], dropout_keep=keep, dropout_rate=0.25)
        assert_equals_oracle(given, output, WIDE.longest)

    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    def test_masked_softmax(self, mirror, dtype, rng):
        scores = (30 * rng.standard_normal((2, 3, 5, 7))).astype(dtype)
        mask = rng.random((2, 1, 5, 7)) < 0.5
        mask[0, 0, 1] = False
        given = mirror("masked_softmax", scores, mask)
        assert_equals_oracle(given, softmax(scores, mask), 7)
        assert not numpy(given)[~np.broadcast_to(mask, scores.shape)].any()
        assert_equals_oracle(mirror("masked_softmax", scores), softmax(scores, np.True_), 7)

    def test_masked_softmax_bears_huge_scores(self, mirror):
        scores = np.array([[1e30, -1e30, 3.0], [-1e30, -1e30, -1e30]], dtype=np.float32)
        mask = np.array([[True, True, True], [True, False, True]])
        given = numpy(mirror("masked_softmax", scores, mask))
        assert given.tolist() == [[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]]

    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @pytest.mark.parametrize("softcap", [None, 1.5])
    @pytest.mark.parametrize("sizes", [Sizes((2,), 4, 2, 3, 5, 6, 6), Sizes((), 2, 1, 5, 3, 4, 7)], ids=str)
    def test_gradients(self, sizes, softcap, dtype, rng):
        arrays = {**sizes.draw(rng), "bias": rng.standard_normal(sizes.scores)}
        if softcap is not None:
            arrays["sinks"] = rng.standard_normal(sizes.num_heads)
        arrays["bias"][..., 1, :2] = -np.inf
        arrays = in_dtype(arrays, dtype)
        mask = rng.random(sizes.scores) < 0.7
        mask[..., 0, :] = False
        options = {"mask": mask, "softcap": softcap}
        cotangent = rng.standard_normal((*sizes.scores[:-1], sizes.value_dim)).astype(dtype)
        expected = oracles.gradient(lambda tensors: oracle(**tensors, **options)[:1], arrays, [cotangent])
        for mirror in MIRRORS.values():
            for name in implementations(mirror, sizes, options, dtype):
                call = {**options, "implementation": name}
                given = mirror.gradient("dot_product_attention", arrays, cotangent, **call)
                terms = sizes.all_backward if name == "blockwise" else sizes.longest_backward
                for argument, gradient in given.items():
                    assert_equals_oracle(gradient, expected[argument], terms)

    def test_gradients_of_the_weights(self, mirror, rng):
        sizes = Sizes((2,), 4, 2, 3, 5, 6, 6)
        arrays = sizes.draw(rng)
        value = arrays.pop("value")
        mask = rng.random(sizes.scores) < 0.7
        mask[..., 0, :] = False
        cotangent = rng.standard_normal(sizes.scores)
        expected = oracles.gradient(
            lambda tensors: oracle(**tensors, value=value, mask=mask)[1:], arrays, [cotangent]
        )
        given = mirror.gradient("dot_product_attention_weights", arrays, cotangent, mask=mask)
        for argument, gradient in given.items():
            assert_equals_oracle(gradient, expected[argument], sizes.longest_backward)

    @pytest.mark.parametrize(
        ("mistake", "options"),
        [
            ({"scale": 1.0}, {}),
            ({"mask": ~np.tri(5, 7, 1, bool)}, {"mask": np.tri(5, 7, 1, bool)}),
            ({"is_causal": True, "window": 4}, {"is_causal": True, "window": 3}),
            ({"is_causal": True, "query_offset": 2}, {"is_causal": True}),
            ({}, {"softcap": 1.5}),
        ],
        ids=["no scale", "inverted mask", "window off by one", "causal aligned to the end", "no softcap"],
    )
    def test_a_mistake_is_far_beyond_the_criterion(self, mirror, mistake, options, rng):
        arrays = GROUPED.draw(rng)
        given = mirror("dot_product_attention", **arrays, **options)
        assert error(given, oracle(**arrays, **mistake)[0]) > 1e-3


def softmax(scores, mask):
    """Softmax over the visible keys in float64; zero in a row that has none."""
    exponentials = np.where(mask, np.exp(scores.astype(np.float64)), 0.0)
    sums = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / np.where(sums == 0, 1, sums)


class TestHeads:
    def test_a_head_is_a_run_of_features(self, mirror, rng):
        x = rng.standard_normal((2, 5, 12))
        heads = numpy(mirror("split_heads", x, 4))
        assert heads.shape == (2, 3, 5, 4)
        for h in range(3):
            np.testing.assert_array_equal(heads[:, h], x[:, :, 4 * h : 4 * (h + 1)])

    def test_merging_is_the_inverse_of_splitting(self, mirror, rng):
        x = rng.standard_normal((2, 5, 12))
        np.testing.assert_array_equal(numpy(mirror("merge_heads", numpy(mirror("split_heads", x, 4)))), x)

    @pytest.mark.parametrize("batch", [(), (2,), (2, 5)])
    def test_heads_are_repeated_not_tiled(self, mirror, batch, rng):
        x = rng.standard_normal((*batch, 3, 7, 4))
        given = numpy(mirror("repeat_heads", x, 6))
        for h in range(6):
            np.testing.assert_array_equal(given[..., h, :, :], x[..., h // 2, :, :])
        assert not np.array_equal(given, np.concatenate([x, x], axis=-3))
        np.testing.assert_array_equal(numpy(mirror("repeat_heads", x, 3)), x)


DEAD_ROWS = {
    "a mask": {"mask": np.arange(5)[:, None] != np.array([[1] * 7])},
    "a bias": {"bias": np.where(np.arange(5)[:, None] == np.array([[3] * 7]), -np.inf, 0.5)},
    "a bias for some heads": {
        "bias": np.where(np.arange(6)[:, None, None] < 2, -np.inf, np.ones((1, 6, 1, 7)))
    },
    "queries before all keys": {"is_causal": True, "query_offset": -2},
    "a window past all keys": {"is_causal": True, "window": 2, "query_offset": 6},
    "a mask that shows only what comes later": {"is_causal": True, "mask": np.triu(np.ones((5, 7), bool), 1)},
    "a mask and a bias together": {
        "mask": np.arange(7)[None] < np.full((5, 1), 3),
        "bias": np.where(np.arange(7) < 4, -np.inf, np.ones((5, 7))),
    },
}


@pytest.mark.parametrize("options", DEAD_ROWS.values(), ids=DEAD_ROWS)
class TestRowsThatSeeNothing:
    def test_output_and_weights_are_exactly_zero(self, mirror, implementation, dtype, options, rng):
        arrays, options = GROUPED.draw(rng, dtype), in_dtype(options, dtype)
        output, weights = oracle(**arrays, **options)
        dead = ~weights.any(axis=-1)
        assert dead.any()
        given = mirror("dot_product_attention", **arrays, **options, implementation=implementation)
        assert_equals_oracle(given, output, GROUPED.longest)
        assert not numpy(given)[dead].any()
        given = mirror("attend", **arrays, **options)
        assert not numpy(given[0])[dead].any()
        assert not numpy(given[1])[dead].any()

    @pytest.mark.parametrize("implementation", ["reference", "blockwise", "native"], indirect=True)
    def test_gradients_are_exactly_zero(self, mirror, implementation, dtype, options, rng):
        options = {"bias": np.zeros((5, 7)), **options}
        arrays = in_dtype({**GROUPED.draw(rng), "bias": options.pop("bias")}, dtype)
        dead = ~oracle(**arrays, **options)[1].any(axis=-1)
        cotangent = rng.standard_normal((*dead.shape, GROUPED.value_dim)).astype(dtype)
        cotangent *= dead[..., None]
        call = {**options, "implementation": implementation}
        for name, gradient in mirror.gradient("dot_product_attention", arrays, cotangent, **call).items():
            assert not np.isnan(gradient).any(), name
            assert not gradient.any(), name

    def test_native_gradients_are_those_of_the_definition(self, mirror, options, rng):
        options = {"bias": np.zeros((5, 7)), **options}
        exact = {**GROUPED.draw(rng), "bias": options.pop("bias")}
        cotangent = rng.standard_normal((*GROUPED.scores[:-1], GROUPED.value_dim)).astype(np.float32)

        def gradients(dtype, implementation):
            arrays, call = in_dtype(in_dtype(exact, np.float32), dtype), in_dtype(options, dtype)
            return mirror.gradient(
                "dot_product_attention",
                arrays,
                cotangent.astype(dtype),
                **call,
                implementation=implementation,
            )

        reference = gradients(np.float64, "reference")
        native = gradients(np.float64 if mirror is TORCH else np.float32, mirror.native)
        for name, gradient in native.items():
            assert_equals_oracle(gradient, reference[name], GROUPED.longest_backward)


class TestPrecision:
    LONG = Sizes((2,), 6, 3, 33, 47, 16, 16)

    def native_error(self, mirror, arrays):
        """The error that the framework's own operation makes without any mask."""
        query, key, value = (mirror.array(x) for x in arrays.values())
        if mirror is TORCH:
            output = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        else:
            query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
            output = jnp.swapaxes(jax.nn.dot_product_attention(query, key, value), 1, 2)
        return error(numpy(output), oracle(**arrays)[0])

    @pytest.mark.parametrize("options", [{}, {"is_causal": True, "window": 9}], ids=["all keys", "window"])
    def test_bfloat16_is_as_good_as_the_framework(self, mirror, implementation, options, rng):
        arrays = self.LONG.draw(rng, ml_dtypes.bfloat16)
        expected = oracle(**arrays, **options)[0]
        given = mirror("dot_product_attention", **arrays, **options, implementation=implementation)
        assert error(given, expected) <= 2 * self.native_error(mirror, arrays)

    @pytest.mark.parametrize(
        ("dtype", "of_weights"),
        [("float64", "float64"), ("float32", "float32"), ("float16", "float32"), ("bfloat16", "float32")],
    )
    def test_output_has_the_dtype_of_the_query_and_weights_at_least_float32(
        self, mirror, dtype, of_weights, rng
    ):
        def name(x):
            return str(x.dtype).removeprefix("torch.")

        arrays = GROUPED.draw(rng, getattr(ml_dtypes, dtype, dtype))
        masks = {"bias": np.zeros((5, 7), np.float32), "is_causal": True}
        names = implementations(mirror, GROUPED, {}, dtype)
        for options in ({}, masks):
            for implementation in names:
                output = mirror("dot_product_attention", **arrays, **options, implementation=implementation)
                assert name(output) == dtype
            output, weights = mirror("attend", **arrays, **options)
            assert (name(output), name(weights)) == (dtype, of_weights)
        scores = mirror("dot_product_attention_weights", arrays["query"], arrays["key"])
        assert name(scores) == of_weights
        assert name(mirror("masked_softmax", arrays["query"])) == of_weights
        assert name(mirror("at_least_float32", arrays["query"])) == of_weights


class TestContract:
    @pytest.mark.parametrize("window", [1, 2, 4, 9])
    def test_a_window_counts_the_keys_seen_the_own_included(self, mirror, window, rng):
        arrays = GROUPED.draw(rng)
        weights = numpy(mirror("attend", **arrays, is_causal=True, window=window)[1])
        seen = (weights > 0).sum(axis=-1)
        np.testing.assert_array_equal(seen, np.broadcast_to(np.minimum(np.arange(5) + 1, window), seen.shape))

    def test_grouped_heads_are_the_key_and_value_heads_repeated(self, mirror, implementation, dtype, rng):
        arrays = GROUPED.draw(rng, dtype)
        call = functools.partial(mirror, "dot_product_attention", implementation=implementation)
        grouped = numpy(call(**arrays))

        def spread(spreading):
            return {name: x if name == "query" else spreading(x) for name, x in arrays.items()}

        repeated = spread(lambda x: np.repeat(x, 2, axis=1))
        tiled = spread(lambda x: np.tile(x, (1, 2, 1, 1)))
        assert_equals_oracle(call(**repeated), grouped, GROUPED.longest)
        assert error(grouped, numpy(call(**tiled))) > 1e-3

    def test_what_comes_later_changes_nothing_before(self, mirror, implementation, dtype, rng):
        arrays = Sizes((2,), 6, 3, 7, 7, 4, 4).draw(rng, dtype)
        later = {name: x.copy() for name, x in arrays.items()}
        for x in later.values():
            x[:, :, 4:] = rng.standard_normal(x[:, :, 4:].shape)
        before, after = (
            numpy(mirror("dot_product_attention", **x, is_causal=True, implementation=implementation))
            for x in (arrays, later)
        )
        np.testing.assert_array_equal(before[:, :, :4], after[:, :, :4])
        assert (before[:, :, 4:] != after[:, :, 4:]).all()

    @pytest.mark.parametrize("by", ["mask", "bias"])
    def test_masked_keys_and_values_change_nothing(self, mirror, implementation, dtype, by, rng):
        arrays = GROUPED.draw(rng, dtype)
        seen = np.arange(7) < np.array([6, 4])[:, None, None, None]  # batch 1 1 key
        options = {"mask": seen} if by == "mask" else {"bias": np.where(seen, 0.5, -np.inf).astype(dtype)}
        changed = {name: x.copy() for name, x in arrays.items()}
        for element, length in enumerate([6, 4]):
            for name in ("key", "value"):
                changed[name][element, :, length:] = 1e3 * rng.standard_normal((3, 7 - length, 4))
        before, after = (
            numpy(mirror("dot_product_attention", **x, **options, implementation=implementation))
            for x in (arrays, changed)
        )
        np.testing.assert_array_equal(before, after)

    @pytest.mark.parametrize("window", [None, 2])
    @pytest.mark.parametrize("as_array", [False, True])
    def test_an_offset_continues_a_sequence(self, mirror, implementation, dtype, as_array, window, rng):
        arrays = Sizes((2,), 6, 3, 7, 7, 4, 4).draw(rng, dtype)
        options = {"is_causal": True, "window": window, "implementation": implementation}
        full = numpy(mirror("dot_product_attention", **arrays, **options))
        arrays["query"] = arrays["query"][:, :, 3:]
        offset = np.array(3) if as_array else 3
        rest = mirror("dot_product_attention", **arrays, **options, query_offset=offset)
        assert_equals_oracle(rest, full[:, :, 3:], 7)

    def test_the_offset_may_be_traced(self, rng):
        arrays = GROUPED.draw(rng, np.float32)
        for name in ("reference", "blockwise", "xla", None):
            call = jax.jit(
                functools.partial(
                    jax_attention.ops.dot_product_attention, is_causal=True, window=2, implementation=name
                )
            )
            for offset in (0, 2):
                expected = oracle(**arrays, is_causal=True, window=2, query_offset=offset)[0]
                given = call(*map(jnp.asarray, arrays.values()), query_offset=offset)
                assert_equals_oracle(given, expected, GROUPED.longest)

    def test_short_calls_in_jax_can_be_differentiated_forwards(self, rng):
        """At a size that TPU's kernel takes: no kernel with a backward pass of its own may be asked for it."""
        query, key, value = map(jnp.asarray, Sizes((2,), 2, 2, 5, 7, 64, 64).draw(rng, np.float32).values())

        def attend(query, name):
            return jax_attention.ops.dot_product_attention(query, key, value, implementation=name)

        tangents = [
            jax.jvp(functools.partial(attend, name=name), (query,), (query,))[1]
            for name in (None, "reference")
        ]
        assert error(tangents[0], numpy(tangents[1])) <= 1e-5

    @pytest.mark.parametrize("rate", [0.0, 0.25])
    def test_dropout_scales_what_it_keeps(self, mirror, rate, rng):
        arrays = GROUPED.draw(rng)
        keep = np.ones(GROUPED.scores, dtype=bool)
        plain = numpy(mirror("dot_product_attention", **arrays))
        kept = mirror("dot_product_attention", **arrays, dropout_keep=keep, dropout_rate=rate)
        assert error(kept, plain / (1 - rate)) <= 1e-12

    def test_weights_are_those_before_dropout(self, mirror, rng):
        arrays = GROUPED.draw(rng)
        keep = np.zeros(GROUPED.scores, dtype=bool)
        output, weights = mirror("attend", **arrays, dropout_keep=keep, dropout_rate=0.5)
        assert not numpy(output).any()
        np.testing.assert_allclose(numpy(weights).sum(axis=-1), 1.0, rtol=1e-12)


class TestVmap:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"is_causal": True, "window": 2},
            {"mask": np.tri(5, 7, 1, dtype=bool), "bias": np.linspace(-1, 1, 35).reshape(5, 7)},
        ],
        ids=["no mask", "causal", "mask and bias"],
    )
    def test_over_the_batch_equals_the_batched_call(self, mirror, implementation, dtype, options, rng):
        arrays, options = GROUPED.draw(rng, dtype), in_dtype(options, dtype)
        expected = mirror("dot_product_attention", **arrays, **options, implementation=implementation)
        vmap = torch.func.vmap if mirror is TORCH else jax.vmap
        with mirror.double():
            fixed = {name: mirror.array(x) for name, x in options.items()}
            one = functools.partial(mirror.ops.dot_product_attention, **fixed, implementation=implementation)
            given = vmap(one)(*map(mirror.array, arrays.values()))
        assert_equals_oracle(given, numpy(expected), GROUPED.longest)

    def test_a_mask_may_be_mapped_too(self, mirror, implementation, dtype, rng):
        arrays = GROUPED.draw(rng, dtype)
        mask = rng.random((2, 5, 7)) < 0.5
        mask[1, 2] = False
        expected = oracle(**arrays, mask=mask)[0]
        vmap = torch.func.vmap if mirror is TORCH else jax.vmap
        with mirror.double():
            given = vmap(
                lambda query, key, value, mask: mirror.ops.dot_product_attention(
                    query, key, value, mask=mask, implementation=implementation
                )
            )(*map(mirror.array, [*arrays.values(), mask]))
        assert_equals_oracle(given, expected, GROUPED.longest)


class TestRefusals:
    @pytest.mark.parametrize(
        ("mirror", "sizes", "dtype", "options", "sentence"),
        [
            (TORCH, GROUPED, "float64", SOFTCAP, "scaled_dot_product_attention has no softcap"),
            (TORCH, GROUPED, "float64", KEEP, "scaled_dot_product_attention takes no dropout mask"),
            (JAX, GROUPED, "float32", SOFTCAP, "jax.nn.dot_product_attention has no softcap"),
            (JAX, GROUPED, "float32", KEEP, "jax.nn.dot_product_attention takes no dropout mask"),
            (
                JAX,
                GROUPED,
                "float64",
                {},
                "jax.nn.dot_product_attention takes its softmax in float32, got float64",
            ),
            (
                JAX,
                WIDE,
                "float32",
                {},
                "jax.nn.dot_product_attention needs value_dim = head_dim, got 11 and 4",
            ),
            (
                JAX,
                Sizes((2, 3), 4, 1, 5, 7, 6, 6),
                "float32",
                {},
                "jax.nn.dot_product_attention takes one batch axis, got query of shape (2, 3, 4, 5, 6)",
            ),
        ],
    )
    def test_what_the_native_kernel_cannot_do_it_refuses_in_one_sentence(
        self, mirror, sizes, dtype, options, sentence, rng
    ):
        arrays = sizes.draw(rng, dtype)
        with pytest.raises(NotImplementedError) as refusal:
            mirror("dot_product_attention", **arrays, **options, implementation=mirror.native)
        assert str(refusal.value) == sentence
        expected = oracle(**arrays, **options)[0]
        given = mirror("dot_product_attention", **arrays, **options)
        assert_equals_oracle(given, expected, sizes.longest)


def test_a_long_16_bit_call_is_answered_though_the_kernel_of_another_platform_could(rng):
    query = jnp.asarray(rng.standard_normal((1, 2, 300, 8)), jnp.bfloat16)

    def loss(query):
        return jax_attention.ops.dot_product_attention(query, query, query).astype(jnp.float32).sum()

    assert np.isfinite(np.asarray(jax.jit(jax.grad(loss))(query), np.float32)).all()
    with pytest.raises(NotImplementedError, match=r"^cuDNN needs an NVIDIA GPU, got cpu$"):
        jax_attention.ops.dot_product_attention(query, query, query, implementation="cudnn")
