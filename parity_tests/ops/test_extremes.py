"""Attention calls with extreme arguments: huge offsets, sinks of -inf, large biases, empty axes."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from jax_attention import ops as jax_ops
from torch_attention import ops as torch_ops

pytestmark = pytest.mark.usefixtures("as_shipped")

MIRRORS = {"torch": (torch_ops, torch.tensor), "jax": (jax_ops, jnp.asarray)}
each_mirror = pytest.mark.parametrize("mirror", MIRRORS)
BATCH, HEADS, QUERY, KEY, DIM = 2, 2, 3, 5, 4
RNG = np.random.default_rng(0)
ARRAYS = [RNG.standard_normal((BATCH, HEADS, n, DIM)).astype(np.float32) for n in (QUERY, KEY, KEY)]


@pytest.fixture(autouse=True)
def _without_x64():
    with jax.enable_x64(False):
        yield


def call(mirror, arrays=ARRAYS, **options):
    """Call the operation of a mirror with numpy arrays."""
    ops, array = MIRRORS[mirror]
    given = {
        name: array(x) if isinstance(x, np.ndarray) and x.dtype != np.int64 else x
        for name, x in options.items()
    }
    if mirror == "torch":
        given = {name: torch.tensor(x) if isinstance(x, np.ndarray) else x for name, x in given.items()}
    return ops.dot_product_attention(*map(array, arrays), **given)


def assert_same(ours, right):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(right), rtol=1e-5, atol=1e-6)


# Options with huge numbers, and equivalent ones with small numbers.
HUGE = {
    "causal, far behind the keys": ({"is_causal": True, "query_offset": 2**63 - 1}, {}),
    "causal, far before them": (
        {"is_causal": True, "query_offset": -(2**63)},
        {"is_causal": True, "query_offset": -QUERY},
    ),
    "causal, at the end of 32 bits": ({"is_causal": True, "query_offset": 2**31 - 1}, {}),
    "a window that a huge offset leaves behind": (
        {"window": (2, None), "query_offset": 2**31},
        {"window": (2, None), "query_offset": KEY + 2},
    ),
    "a window as huge as the offset": (
        {"window": (2**40, None), "query_offset": 2**40 + 1},
        {"window": (0, None), "query_offset": 1},
    ),
    "a window after as huge as the offset": (
        {"window": (None, 2**40), "query_offset": -(2**40)},
        {"window": (None, 0)},
    ),
    "a causal window just beyond all": ({"is_causal": True, "window": 2**31}, {"is_causal": True}),
    "an offset of one number in an array": (
        {"is_causal": True, "query_offset": np.array(2**31 - 1, np.int32)},
        {},
    ),
    "offsets of each element": (
        {"is_causal": True, "query_offset": np.array([2**31 - 1, -(2**31)], np.int32)},
        {"is_causal": True, "query_offset": np.array([KEY, -QUERY], np.int32)},
    ),
    "offsets of each element in 64 bits": (
        {"is_causal": True, "query_offset": np.array([2**40, -(2**40)])},
        {"is_causal": True, "query_offset": np.array([KEY, -QUERY], np.int32)},
    ),
    "lengths in 64 bits": ({"key_lengths": np.array([2**40, 3])}, {"key_lengths": np.array([KEY, 3])}),
}


# All of them in PyTorch, which does not compile; in JAX, tiles take longest to compile.
@pytest.mark.parametrize(
    ("name", "implementation", "mirror"),
    [
        (name, implementation, mirror)
        for name in HUGE
        for implementation in ("reference", "blockwise")
        for mirror in MIRRORS
        if mirror == "torch" or implementation == "reference" or name == "offsets of each element"
    ],
)
def test_huge_numbers_equal_equivalent_small_ones(name, implementation, mirror):
    huge, small = HUGE[name]
    ours = call(mirror, **huge, implementation=implementation)
    assert_same(ours, call("torch", **small, implementation="reference"))


@pytest.mark.parametrize("query_offset", [2**31 - 1, 2**40, -(2**31), -(2**40)])
@pytest.mark.parametrize(("name", "options"), [("causal_mask", {}), ("sliding_window_mask", {"window": 2})])
def test_masks_take_huge_offsets(name, options, query_offset):
    ours, theirs = (
        getattr(package, name)(3, 4, query_offset=query_offset, **options)
        for package in (torch_attention, jax_attention)
    )
    np.testing.assert_array_equal(ours, theirs)
    assert np.asarray(ours).all() == (name == "causal_mask" and query_offset > 0)


@each_mirror
@pytest.mark.parametrize("implementation", [None, "reference", "blockwise", "native"])
def test_queries_beyond_the_sequence_keep_no_key_alive(implementation, mirror):
    implementation = {"torch": "sdpa", "jax": "xla"}[mirror] if implementation == "native" else implementation
    options = {"window": (1, 0), "query_lengths": np.array([QUERY + 4, 1], np.int32)}
    query, key, value = (x.copy() for x in ARRAYS)
    key[:, :, QUERY:], value[:, :, QUERY:] = np.nan, np.inf  # visible only to a fourth query
    ours = call(mirror, (query, key, value), **options, implementation=implementation)
    assert_same(ours, call("torch", **options, implementation="reference"))


@each_mirror
@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
def test_logsumexp_with_a_sink_of_minus_infinity(implementation, mirror):
    options = {"key_lengths": np.array([0, 3], np.int32), "implementation": implementation}
    sinks = np.full(HEADS, -np.inf, np.float32)
    output, log_sum = call(mirror, **options, sinks=sinks, return_logsumexp=True)
    assert_same(output, call("torch", **options))
    assert np.isneginf(np.asarray(log_sum)[0]).all()


def test_sink_of_minus_infinity_without_keys_has_no_gradient():
    sinks = torch.full((HEADS,), -torch.inf, requires_grad=True)
    weights = torch_ops.dot_product_attention_weights(
        torch.ones(1, HEADS, 3, 4), torch.ones(1, HEADS, 0, 4), sinks=sinks
    )
    weights.sum().backward()
    assert not sinks.grad.any()
    ours = jax.grad(
        lambda sinks: jax_ops.dot_product_attention_weights(
            jnp.ones((1, HEADS, 3, 4)), jnp.ones((1, HEADS, 0, 4)), sinks=sinks
        ).sum()
    )(jnp.full(HEADS, -jnp.inf))
    assert not ours.any()


BIAS = np.where(np.arange(QUERY)[:, None] == 1, np.float32(-1e9), RNG.standard_normal((QUERY, KEY)))
BIAS = BIAS.astype(np.float32)


@each_mirror
@pytest.mark.parametrize("implementation", [None, "reference", "blockwise"])
def test_gradients_with_a_bias_that_dominates_the_scores(implementation, mirror):
    _, _, value = ARRAYS
    weights = np.full(KEY, 1 / KEY)  # of the query with equal scores for all keys
    if mirror == "torch":
        given = torch.tensor(value, requires_grad=True)
        output = torch_ops.dot_product_attention(
            *map(torch.tensor, ARRAYS[:2]), given, torch.tensor(BIAS), implementation=implementation
        )
        output[:, :, 1].sum().backward()
        found = given.grad
    else:
        found = jax.grad(
            lambda value: jax_ops.dot_product_attention(
                *map(jnp.asarray, ARRAYS[:2]), value, jnp.asarray(BIAS), implementation=implementation
            )[:, :, 1].sum()
        )(jnp.asarray(value))
    assert_same(found, np.broadcast_to(weights[:, None], value.shape))


@each_mirror
@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
def test_gradient_of_a_large_logsumexp_sums_to_one(implementation, mirror):
    if mirror == "torch":
        bias = torch.tensor(BIAS, requires_grad=True)
        _, log_sum = torch_ops.dot_product_attention(
            *map(torch.tensor, ARRAYS), bias, return_logsumexp=True, implementation=implementation
        )
        log_sum[0, 0].sum().backward()
        found = bias.grad
    else:
        found = jax.grad(
            lambda bias: jax_ops.dot_product_attention(
                *map(jnp.asarray, ARRAYS), bias, return_logsumexp=True, implementation=implementation
            )[1][0, 0].sum()
        )(jnp.asarray(BIAS))
    assert_same(np.asarray(found).sum(-1), np.ones(QUERY))


def test_fused_kernel_raises_where_it_would_lose_gradients():
    query, key, value = (torch.tensor(x, requires_grad=True) for x in ARRAYS)
    with pytest.raises(
        NotImplementedError, match=r"^scaled_dot_product_attention loses gradients beside a bias"
    ):
        torch_ops.dot_product_attention(query, key, value, torch.tensor(BIAS), implementation="sdpa")
    with torch.no_grad():
        torch_ops.dot_product_attention(query, key, value, torch.tensor(BIAS), implementation="sdpa")


def test_torch_vmap_over_a_scale():
    given = [torch.tensor(x) for x in ARRAYS]
    ours = torch.vmap(lambda scale: torch_ops.dot_product_attention(*given, scale=scale))(
        torch.tensor([0.5, 2.0])
    )
    for output, scale in zip(ours, (0.5, 2.0), strict=True):
        assert_same(output, call("torch", scale=scale))


def test_jax_kernel_compiles_float16_on_the_cpu():
    arrays = [jnp.asarray(x, jnp.float16) for x in ARRAYS]
    ours = jax.jit(partial(jax_ops.dot_product_attention, implementation="xla"))(*arrays)
    np.testing.assert_allclose(ours.astype(jnp.float32), call("jax", implementation="reference"), atol=5e-3)


@each_mirror
@pytest.mark.parametrize("name", ["ShawSelfAttention", "CausalSelfAttention"])
def test_unwritten_slots_of_a_cache_have_no_influence(name, mirror):
    package, array = {"torch": torch_attention, "jax": jax_attention}[mirror], MIRRORS[mirror][1]
    options = {} if mirror == "torch" else {"rngs": nnx.Rngs(0)}
    if name == "ShawSelfAttention":
        options |= {"max_distance": 2, "is_causal": True}
    attn = getattr(package, name)(4, 2, **options)
    x = array(RNG.standard_normal((1, 3, 4)).astype(np.float32))
    cache = attn(x[:, :2], cache=package.StaticCache(5)).cache
    spoilt = [
        x + array(np.where(np.arange(5)[:, None] < 2, 0, np.nan).astype(np.float32)) for x in cache.entries
    ]
    spoilt = dataclasses.replace(cache, entries=type(cache.entries)(*spoilt))
    clean, ours = (attn(x[:, 2:], cache=each).output for each in (cache, spoilt))
    if mirror == "torch":
        clean, ours = clean.detach(), ours.detach()
    np.testing.assert_array_equal(ours, clean)


def message(function, *arguments, **options):
    """The type and text of the raised error."""
    with pytest.raises((TypeError, ValueError)) as caught:
        function(*arguments, **options)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("operation", ["dot_product_attention", "flex_attention"])
def test_heads_of_size_zero_and_8_bit_inputs_raise_the_same_error(operation):
    ours, theirs = (getattr(ops, operation) for ops in (torch_ops, jax_ops))
    found = message(ours, *[torch.ones(1, 2, 3, 0)] * 3)
    assert found == message(theirs, *[jnp.ones((1, 2, 3, 0))] * 3)
    assert found == (ValueError, "query and key must have a head_dim of at least 1, got 0")
    x = torch.ones(1, 2, 3, 4)
    found = message(ours, *[x.to(torch.float8_e4m3fn)] * 3)
    assert found == message(theirs, *[jnp.asarray(x.numpy()).astype(jnp.float8_e4m3fn)] * 3)
    assert found[0] is TypeError
    assert found[1] == "query must have at least 16 bits, got float8_e4m3fn; convert it to float32, say"


def test_8_bit_modules_raise_the_same_error():
    attn = torch_attention.MultiHeadSelfAttention
    found = message(attn, 8, 2, dtype=torch.float8_e5m2)
    theirs = partial(jax_attention.MultiHeadSelfAttention, rngs=nnx.Rngs(0))
    assert found[0] is message(theirs, 8, 2, param_dtype=jnp.float8_e5m2)[0] is TypeError
    assert found[1] == "dtype must have at least 16 bits, got float8_e5m2"


class TestOtherDtypeThanTheParameters:
    def test_torch_raises_one_sentence(self):
        attn = torch_attention.MultiHeadCrossAttention(8, 8, 8, 2)
        x = torch.ones(1, 3, 8)
        for given, name in (((x.double(), x), "query"), ((x, x.bfloat16()), "memory")):
            found = message(attn, *given)
            assert found[0] is ValueError
            assert re.match(
                rf"{name} must have the dtype of the parameters, float32, got (float64|bfloat16)$", found[1]
            )

    def test_autocast_and_hooks_convert(self):
        attn = torch_attention.MultiHeadSelfAttention(8, 2)
        x = torch.ones(1, 3, 8)
        with torch.autocast("cpu", torch.bfloat16):
            assert attn(x.bfloat16()).output.shape == x.shape
        for layer in attn.children():
            if isinstance(layer, torch.nn.Linear):
                layer.register_forward_pre_hook(lambda _, given: (given[0].float(),))
        assert attn(x.double()).output.dtype == torch.float32

    def test_jax_promotes(self):
        attn = jax_attention.MultiHeadSelfAttention(8, 2, rngs=nnx.Rngs(0))
        assert attn(jnp.ones((1, 3, 8), jnp.bfloat16)).output.dtype == jnp.float32


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_splash_attention_without_a_tpu_raises_one_sentence(transform):
    query = jnp.ones((1, 1, 2, 128, 64))

    def attend(query):
        return jax_ops.dot_product_attention(query, query, query, implementation="splash")

    for function in (
        attend,
        jax.grad(lambda query: attend(query).sum()) if transform is not jax.vmap else attend,
    ):
        with pytest.raises(NotImplementedError, match=r"^splash attention needs a TPU, got another platform"):
            transform(function)(query)
