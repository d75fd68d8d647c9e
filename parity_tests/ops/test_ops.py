"""The operations: each implementation in both mirrors against the float64 oracle and the contract."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_attention.ops
import torch_attention.ops
from attention_bridge import oracles
from parity_tests.helpers.conformance import (
    ALL_SIZES,
    GROUPED,
    JAX,
    KEEP,
    MIRRORS,
    SOFTCAP,
    TORCH,
    WIDE,
    Sizes,
    assert_equals_oracle,
    error,
    in_dtype,
    numpy,
    oracle,
    shapes_of_masks,
)


@pytest.fixture(params=MIRRORS)
def mirror(request):
    return MIRRORS[request.param]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Set small tiles, so that every case has several tiles, some of them partial."""
    for ops in (torch_attention.ops, jax_attention.ops):
        monkeypatch.setattr(ops.blockwise, "ROWS", 4)
        monkeypatch.setattr(ops.blockwise, "COLUMNS", 3)


@st.composite
def calls(draw):
    """Sizes and options of one call, covering every option of the contract."""
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
    """Whether the native kernel of a mirror supports the call."""
    if options.get("softcap") is not None or "dropout_keep" in options or "sinks" in options:
        return False
    is_plain = sizes.value_dim == sizes.head_dim and len(sizes.batch) < 2
    return mirror is TORCH or (is_plain and dtype not in (np.float64, "float64"))


def implementations(mirror, sizes, options, dtype):
    """Every implementation that supports the call, and None for the automatic choice."""
    return ["reference", "blockwise", None, *([mirror.native] if can(mirror, sizes, options, dtype) else [])]


class TestAgainstTheOracle:
    # JAX compiles every operation once per shape, so there are few shapes and few examples.
    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @settings(max_examples=14, deadline=None, derandomize=True)
    @given(call=calls())
    def test_every_call_equals_the_oracle(self, dtype, call):
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
    def test_output_is_the_same_without_weights(self, mirror, sizes, rng):
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

    def test_masked_softmax_handles_huge_scores(self, mirror):
        scores = np.array([[1e30, -1e30, 3.0], [-1e30, -1e30, -1e30]], dtype=np.float32)
        mask = np.array([[True, True, True], [True, False, True]])
        given = numpy(mirror("masked_softmax", scores, mask))
        assert given.tolist() == [[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]]

    @pytest.mark.slow
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
    def test_mistake_is_far_beyond_the_criterion(self, mirror, mistake, options, rng):
        arrays = GROUPED.draw(rng)
        given = mirror("dot_product_attention", **arrays, **options)
        assert error(given, oracle(**arrays, **mistake)[0]) > 1e-3


def softmax(scores, mask):
    """Float64 softmax over the visible keys; zero in fully masked rows."""
    exponentials = np.where(mask, np.exp(scores.astype(np.float64)), 0.0)
    sums = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / np.where(sums == 0, 1, sums)


class TestHeads:
    def test_head_is_a_contiguous_run_of_features(self, mirror, rng):
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


class TestPrecision:
    @pytest.mark.slow
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
        masks = {"bias": np.zeros((5, 7), getattr(ml_dtypes, dtype, dtype)), "is_causal": True}
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
    def test_window_counts_the_visible_keys_including_the_own(self, mirror, window, rng):
        arrays = GROUPED.draw(rng)
        weights = numpy(mirror("attend", **arrays, is_causal=True, window=window)[1])
        seen = (weights > 0).sum(axis=-1)
        np.testing.assert_array_equal(seen, np.broadcast_to(np.minimum(np.arange(5) + 1, window), seen.shape))

    def test_offset_may_be_traced(self, rng):
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

    def test_short_calls_in_jax_have_forward_mode(self, rng):
        """At a size that the TPU kernel supports: a kernel with its own backward pass must not be chosen."""
        query, key, value = map(jnp.asarray, Sizes((2,), 2, 2, 5, 7, 64, 64).draw(rng, np.float32).values())

        def attend(query, name):
            return jax_attention.ops.dot_product_attention(query, key, value, implementation=name)

        tangents = [
            jax.jvp(functools.partial(attend, name=name), (query,), (query,))[1]
            for name in (None, "reference")
        ]
        assert error(tangents[0], numpy(tangents[1])) <= 1e-5

    @pytest.mark.parametrize("rate", [0.0, 0.25])
    def test_dropout_scales_the_kept_weights(self, mirror, rate, rng):
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
    def test_unsupported_call_of_the_native_kernel_raises_one_sentence(
        self, mirror, sizes, dtype, options, sentence, rng
    ):
        arrays = sizes.draw(rng, dtype)
        with pytest.raises(NotImplementedError) as refusal:
            mirror("dot_product_attention", **arrays, **options, implementation=mirror.native)
        assert str(refusal.value) == sentence
        expected = oracle(**arrays, **options)[0]
        given = mirror("dot_product_attention", **arrays, **options)
        assert_equals_oracle(given, expected, sizes.longest)


def test_long_16_bit_call_skips_the_kernel_of_another_platform(rng):
    query = jnp.asarray(rng.standard_normal((1, 2, 300, 8)), jnp.bfloat16)

    def loss(query):
        return jax_attention.ops.dot_product_attention(query, query, query).astype(jnp.float32).sum()

    assert np.isfinite(np.asarray(jax.jit(jax.grad(loss))(query), np.float32)).all()
    with pytest.raises(NotImplementedError, match=r"^cuDNN needs an NVIDIA GPU of compute .*, got cpu$"):
        jax_attention.ops.dot_product_attention(query, query, query, implementation="cudnn")


def test_call_in_64_bit_mode_skips_the_32_bit_kernel(rng):
    shapes = ((1, 2, 300, 64), (1, 1, 300, 64), (1, 1, 300, 64))
    with jax.enable_x64(True):
        given = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]
        assert np.isfinite(jax.jit(jax_attention.ops.dot_product_attention)(*given)).all()
        with pytest.raises(NotImplementedError, match=r"^splash attention counts in 32 bits, got jax_enable"):
            jax_attention.ops.dot_product_attention(*given, implementation="splash")
