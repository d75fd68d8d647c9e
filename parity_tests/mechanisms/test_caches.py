"""KV caches: incremental decoding equals a call on the whole sequence, in both mirrors."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge.weights import transfer

BATCH, LENGTH, EMBED, HEADS, KV_HEADS, WINDOW = 2, 7, 12, 6, 3, 3
# The proof's tolerance: 4 u sqrt(n), with n the longest sum (projections, scores, values), and 3 n for gradients.
SUMS = EMBED + EMBED // HEADS + LENGTH + EMBED
BOUND = 4 * 2.0**-24 * np.sqrt(SUMS)
GRADIENT_BOUND = 4 * 2.0**-24 * np.sqrt(3 * SUMS)


def kinds(m, f):
    """Every class that takes a KV cache, in mirror `m`, with the caches that it supports."""
    everything = [m.GrowingCache(), m.StaticCache(capacity=LENGTH + 2)]
    rotary = m.RotaryEmbedding(EMBED // HEADS)
    return {
        "CausalSelfAttention": (m.CausalSelfAttention(EMBED, HEADS, **f), everything),
        "CausalSelfAttention with ALiBi": (
            m.CausalSelfAttention(EMBED, HEADS, position=m.ALiBi(HEADS), **f),
            everything,
        ),
        "GroupedQueryAttention with RotaryEmbedding": (
            m.GroupedQueryAttention(EMBED, HEADS, KV_HEADS, position=rotary, is_causal=True, **f),
            everything,
        ),
        "SlidingWindowAttention with RotaryEmbedding": (
            m.SlidingWindowAttention(EMBED, HEADS, WINDOW, position=rotary, **f),
            [*everything, m.RollingCache(WINDOW), m.RollingCache(WINDOW + 1)],
        ),
    }


@pytest.fixture(scope="module")
def mirrors():
    torch.manual_seed(0)
    ours, theirs = kinds(torch_attention, {}), kinds(jax_attention, {"rngs": nnx.Rngs(0)})
    for name in ours:
        transfer(ours[name][0], theirs[name][0])
    return {
        "torch": SimpleNamespace(kinds=ours, array=torch.from_numpy, package=torch_attention),
        "jax": SimpleNamespace(kinds=theirs, array=jnp.asarray, package=jax_attention),
    }


@pytest.fixture(params=["torch", "jax"])
def mirror(request, mirrors):
    return mirrors[request.param]


@pytest.fixture
def x():
    return np.random.default_rng(1).standard_normal((BATCH, LENGTH, EMBED)).astype(np.float32)


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def read(attn, mirror, x, cache, chunks, mask=None):
    """The concatenated outputs of all chunks, and the cache after each chunk."""
    outputs, caches, start = [], [cache], 0
    for size in chunks:
        end = start + size
        shown = None if mask is None else mirror.array(np.ascontiguousarray(mask[..., start:end]))
        output, cache, _ = attn(mirror.array(x[:, start:end].copy()), shown, cache=cache)
        outputs.append(numpy(output))
        caches.append(cache)
        start = end
    return np.concatenate(outputs, axis=1), caches


def to_half(mirror, x):
    return x.bfloat16() if mirror.package is torch_attention else x.astype(jnp.bfloat16)


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


NAMES = list(kinds(torch_attention, {}))


def test_weights_with_a_growing_cache_are_rows_of_the_full_weights(mirror, x):
    attn, _ = mirror.kinds["CausalSelfAttention with ALiBi"]
    _, cache, _ = attn(mirror.array(x[:, :4].copy()), cache=mirror.package.GrowingCache())
    weights = attn(mirror.array(x[:, 4:].copy()), cache=cache).weights
    assert error(numpy(weights), numpy(attn(mirror.array(x)).weights)[:, :, 4:]) <= BOUND


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["growing", "static", "rolling"])
def test_call_without_new_tokens_leaves_the_cache_unchanged(mirror, x, kind):
    attn, caches = mirror.kinds["SlidingWindowAttention with RotaryEmbedding"]
    found, read_caches = read(attn, mirror, x, caches[kind], (0, 4, 0, 3))
    assert error(found, numpy(attn(mirror.array(x)).output)) <= BOUND
    for before, after in zip(read_caches[2].entries, read_caches[3].entries, strict=True):
        np.testing.assert_array_equal(numpy(before), numpy(after))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_earlier_cache_can_be_continued_again(mirror, name, x):
    attn, caches = mirror.kinds[name]
    for empty in caches:
        _, (_, cache, *_) = read(attn, mirror, x, empty, (3, 2))
        before = [numpy(entry).copy() for entry in cache.entries]
        step = mirror.array(x[:, 3:4].copy())
        first = numpy(attn(step, cache=cache).output)
        attn(mirror.array(x[:, 5:7].copy()), cache=cache)
        for entry, numbers in zip(cache.entries, before, strict=True):
            np.testing.assert_array_equal(numpy(entry), numbers)
        np.testing.assert_array_equal(numpy(attn(step, cache=cache).output), first)


@pytest.mark.parametrize("name", NAMES)
def test_caches_are_equal_in_both_mirrors(mirrors, name, x):
    for ours, theirs in zip(*(mirrors[m].kinds[name][1] for m in ("torch", "jax")), strict=True):
        found = []
        for mirror, cache in ((mirrors["torch"], ours), (mirrors["jax"], theirs)):
            _, caches = read(mirror.kinds[name][0], mirror, x, cache, (3, 2))
            found.append(caches[-1].entries)
        for one, other in zip(*found, strict=True):
            assert error(numpy(other), numpy(one)) <= BOUND


def test_gradients_through_a_cache_equal_those_of_the_whole_sequence(mirrors, x):
    attn, _ = mirrors["torch"].kinds["CausalSelfAttention"]
    whole, parts = (torch.from_numpy(x).requires_grad_() for _ in range(2))
    attn(whole).output.square().sum().backward()
    output, cache, _ = attn(parts[:, :4], cache=torch_attention.GrowingCache())
    (output.square().sum() + attn(parts[:, 4:], cache=cache).output.square().sum()).backward()
    assert error(parts.grad.numpy(), whole.grad.numpy()) <= GRADIENT_BOUND

    attn, _ = mirrors["jax"].kinds["CausalSelfAttention"]

    def loss(x):
        output, cache, _ = attn(x[:, :4], cache=jax_attention.StaticCache(capacity=LENGTH))
        return (output**2).sum() + (attn(x[:, 4:], cache=cache).output ** 2).sum()

    assert error(np.asarray(jax.grad(loss)(jnp.asarray(x))), whole.grad.numpy()) <= GRADIENT_BOUND


@pytest.mark.parametrize("kind", ["static", "rolling"])
def test_one_compiled_step_serves_every_position(mirrors, kind, x):
    attn, _ = mirrors["jax"].kinds["SlidingWindowAttention with RotaryEmbedding"]
    graphdef, state = nnx.split(attn)
    traced = []

    @jax.jit
    def step(state, x, cache):
        traced.append(x)
        return nnx.merge(graphdef, state)(x, cache=cache, need_weights=False)

    empty = {
        "static": jax_attention.StaticCache(capacity=LENGTH),
        "rolling": jax_attention.RollingCache(WINDOW),
    }
    output, cache, _ = attn(jnp.asarray(x[:, :2]), cache=empty[kind])
    outputs = [output]
    for i in range(2, LENGTH):
        output, cache, _ = step(state, jnp.asarray(x[:, i : i + 1]), cache)
        outputs.append(output)
    assert len(traced) == 1
    expected = np.asarray(attn(jnp.asarray(x)).output)
    assert error(np.concatenate(outputs, axis=1), expected) <= BOUND


def test_cache_has_the_dtype_of_the_computation(mirror, x):
    m = mirror.package
    half = (
        m.CausalSelfAttention(EMBED, HEADS, dtype=torch.bfloat16)
        if m is torch_attention
        else m.CausalSelfAttention(EMBED, HEADS, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    )
    given = to_half(mirror, mirror.array(x))
    for cache in (m.GrowingCache(), m.StaticCache(capacity=LENGTH)):
        found = half(given, cache=cache)
        assert found.cache.entries.key.dtype == found.output.dtype == given.dtype


def test_position_off_by_one_is_detected(mirror, x):
    attn, _ = mirror.kinds["GroupedQueryAttention with RotaryEmbedding"]
    _, (_, cache) = read(attn, mirror, x, mirror.package.StaticCache(capacity=LENGTH + 2), (4,))
    wrong = mirror.package.StaticCache(LENGTH + 2, cache.entries, None, cache.length - 1)
    found = numpy(attn(mirror.array(x[:, 4:].copy()), cache=wrong).output)
    assert error(found, numpy(attn(mirror.array(x)).output)[:, 4:]) > 1e3 * BOUND


def refusals(mirror, x):
    """Calls that raise, each with a pattern of its message."""
    m, array = mirror.package, mirror.array
    attn = mirror.kinds["CausalSelfAttention with ALiBi"][0]
    window = mirror.kinds["SlidingWindowAttention with RotaryEmbedding"][0]
    f = {} if m is torch_attention else {"rngs": nnx.Rngs(0)}
    both_ways = m.GroupedQueryAttention(EMBED, HEADS, KV_HEADS, **f)
    given = array(x)
    one = attn(array(x[:1].copy()), cache=m.GrowingCache()).cache
    full = attn(given, cache=m.StaticCache(capacity=LENGTH + 1)).cache
    grouped = mirror.kinds["GroupedQueryAttention with RotaryEmbedding"][0]
    fewer_heads = grouped(given, cache=m.GrowingCache()).cache
    half = m.GrowingCache(
        m.KeyValue(*(to_half(mirror, x) for x in attn(given, cache=m.GrowingCache()).cache.entries))
    )
    grid = np.ones((LENGTH, LENGTH), bool)
    zeros = (np.zeros((BATCH, 3, size), np.float32) for size in (7, 4))
    latents = m.GrowingCache(m.Latents(*map(array, zeros)))
    axes = m.MultiAxisRotaryEmbedding(6, sections=(1, 1, 1))
    in_space = m.GroupedQueryAttention(EMBED, 2, 1, position=axes, is_causal=True, **f)
    sigmoid = m.SigmoidAttention(EMBED, HEADS, is_causal=True, **f)
    return [
        (lambda: attn(given, cache=m.StaticCache(capacity=LENGTH - 1)), f"room for {LENGTH} tokens"),
        (lambda: attn(given, cache=full), f"{LENGTH} read and {LENGTH} new"),
        (lambda: attn(given, cache=m.StaticCache(capacity=0)), "capacity must be at least 1"),
        (lambda: attn(given, cache=m.RollingCache(WINDOW)), "hold all tokens"),
        (lambda: window(given, cache=m.RollingCache(WINDOW - 1)), f"the last {WINDOW} tokens"),
        (
            lambda: window(given, cache=m.RollingCache(WINDOW, 1)),
            "keep the first 0 tokens as the attention does, got num_sinks=1",
        ),
        (
            lambda: attn(given, cache=latents),
            "as x gives, got float32 (2, length, 7), float32 (2, length, 4)",
        ),
        (lambda: in_space(given, cache=m.GrowingCache()), "with num_axes=3"),
        (lambda: sigmoid(given, cache=m.GrowingCache()), "cache needs SigmoidAttention(shift=...)"),
        (lambda: attn(given, cache=one), f"cache must hold {BATCH} sequences"),
        (
            lambda: attn(given, cache=fewer_heads),
            "cache must hold float32 (2, 6, length, 2), float32 (2, 6, length, 2) as x gives",
        ),
        (lambda: attn(given, cache=half), "got bfloat16 (2, 6, length, 2), bfloat16 (2, 6, length, 2)"),
        (
            lambda: attn(given, cache=m.GrowingCache(), positions=array(np.arange(LENGTH))),
            "positions must be",
        ),
        (lambda: attn(given, array(grid), cache=m.GrowingCache()), "mask must have shape"),
        (lambda: both_ways(given, cache=m.GrowingCache()), "needs is_causal=True"),
        (
            lambda: attn(
                given, cache=m.GrowingCache(), dropout_keep=array(np.ones((BATCH, HEADS, 7, 7), bool))
            ),
            "dropout_keep must be None",
        ),
    ]


def test_bad_input_raises_the_same_error_in_both(mirrors, x):
    messages = {}
    for name, mirror in mirrors.items():
        for call, part in refusals(mirror, x):
            with pytest.raises(ValueError, match=re.escape(part)) as caught:
                call()
            messages.setdefault(part, {})[name] = str(caught.value)
    assert all(found["torch"] == found["jax"] for found in messages.values())


@pytest.mark.slow
def test_one_compiled_step_serves_every_position_in_pytorch(mirrors, x):
    attn, _ = mirrors["torch"].kinds["GroupedQueryAttention with RotaryEmbedding"]
    step = torch.compile(
        lambda x, cache: attn(x, cache=cache, need_weights=False), fullgraph=True, backend="aot_eager"
    )
    given = torch.from_numpy(x)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        output, cache, _ = attn(given[:, :2], cache=torch_attention.StaticCache(capacity=LENGTH))
        outputs = [output]
        for i in range(2, LENGTH):
            output, cache, _ = step(given[:, i : i + 1], cache)
            outputs.append(output)
        assert error(numpy(torch.cat(outputs, dim=1)), numpy(attn(given).output)) <= BOUND
    torch.compiler.reset()
