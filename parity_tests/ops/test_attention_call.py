"""Attention calls: derivatives, masked entries, precision, arguments and shapes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_attention.ops as jax_ops
import torch_attention.ops as torch_ops

pytestmark = pytest.mark.usefixtures("as_shipped")

IMPLEMENTATIONS = [None, "reference", "blockwise"]


def arrays(*shapes, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def heads(batch=2, num_heads=6, kv_heads=3, query=5, key=7, dim=4, value_dim=3, dtype=np.float64):
    """Query, key and value; the sizes of all axes differ."""
    return arrays(
        (batch, num_heads, query, dim),
        (batch, kv_heads, key, dim),
        (batch, kv_heads, key, value_dim),
        dtype=dtype,
    )


# Derivatives


@pytest.mark.parametrize("options", [{"softcap": 2.0}, {"is_causal": True}, {"sinks": True}, {"bias": True}])
def test_torch_tiles_second_derivative_is_right(options):
    query, key, value = (torch.tensor(x, requires_grad=True) for x in heads())
    bias, sinks = (torch.tensor(x, requires_grad=True) for x in arrays((6, 5, 7), (6,), seed=1))
    learned = (
        {"bias": bias[None]} if options.get("bias") else {"sinks": sinks} if options.get("sinks") else {}
    )
    extra = list(learned.values())

    def run(query, key, value, *others):
        given = {**options, **dict(zip(learned, others, strict=True))}
        return torch_ops.dot_product_attention(query, key, value, implementation="blockwise", **given)

    assert torch.autograd.gradgradcheck(
        run, (query, key, value, *extra), raise_exception=True, fast_mode=True
    )


def test_torch_flex_second_derivative_is_right():
    query, key, value = (torch.tensor(x, requires_grad=True) for x in heads())
    slopes = torch.rand(6, dtype=torch.float64, requires_grad=True)

    def run(query, key, value, slopes):
        def score(s, b, h, i, j):
            return s - slopes[h] * (i - j) ** 2 * s.tanh()

        return torch_ops.flex_attention(query, key, value, score, enable_gqa=True)

    assert torch.autograd.gradgradcheck(
        run, (query, key, value, slopes), raise_exception=True, fast_mode=True
    )


@pytest.mark.parametrize("softcap", [pytest.param(None, marks=pytest.mark.slow), 2.0])
def test_jax_tiles_gradient_of_gradient_equals_the_reference(softcap):
    query, key, value = heads()
    bias, sinks, mask = (
        *arrays((1, 6, 5, 7), (6,), seed=1),
        np.random.default_rng(2).random((2, 1, 5, 7)) < 0.7,
    )

    def product(implementation, *given):
        def loss(query, key, value, bias, sinks):
            call = partial(jax_ops.dot_product_attention, mask=mask, is_causal=True, query_offset=2)
            return jnp.sin(
                call(query, key, value, bias, sinks=sinks, softcap=softcap, implementation=implementation)
            ).sum()

        slope = jax.grad(loss, argnums=(0, 1, 2, 3, 4))
        return jax.grad(lambda *x: sum((g**2).sum() for g in slope(*x)), argnums=(0, 1, 2, 3, 4))(*given)

    with jax.enable_x64(True):
        given = [jnp.asarray(x) for x in (query, key, value, bias, sinks)]
        for ours, right in zip(product("blockwise", *given), product("reference", *given), strict=True):
            assert float(abs(ours - right).max()) <= 1e-12 * float(abs(right).max())


# PyTorch itself compiles its forward-mode rules with a deprecated function.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torch_forward_mode_is_right_by_default():
    query, key, value = (torch.tensor(x) for x in heads())

    def run(query):
        return torch_ops.dot_product_attention(query, key, value, is_causal=True)

    tangent = torch.randn_like(query)
    _, ours = torch.func.jvp(run, (query,), (tangent,))
    ends = [run(query + step * tangent) for step in (1e-6, -1e-6)]
    assert float((ours - (ends[0] - ends[1]) / 2e-6).abs().max()) < 1e-8
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(query, tangent)
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(run(dual)).tangent, ours)


def test_torch_func_gradient_with_a_learned_bias():
    query, key, value = (torch.tensor(x) for x in heads())
    bias = torch.nn.Parameter(torch.randn(1, 6, 5, 7, dtype=torch.float64))

    def loss(query):
        return torch_ops.dot_product_attention(query, key, value, bias).sin().sum()

    found = torch.func.grad(loss)(query)
    again = query.clone().requires_grad_()
    (right,) = torch.autograd.grad(loss(again), again)
    assert torch.allclose(found, right, rtol=1e-12, atol=1e-12)


# Masked entries


def both(implementation, query, key, value, bias=None, mask=None, **options):
    """Output and gradients of queries, keys and values, in both mirrors."""
    given = [torch.tensor(x, requires_grad=True) for x in (query, key, value)]
    extra = [None if x is None else torch.tensor(x) for x in (bias, mask)]
    output = torch_ops.dot_product_attention(*given, *extra, implementation=implementation, **options)
    grads = torch.autograd.grad(output.sin().sum(), given)
    ours = [x.detach().numpy() for x in (output, *grads)]

    def run(*given):
        output = jax_ops.dot_product_attention(*given, *theirs, implementation=implementation, **options)
        return jnp.sin(output).sum(), output

    with jax.enable_x64(True):
        theirs = [None if x is None else jnp.asarray(x) for x in (bias, mask)]
        arguments = [jnp.asarray(x) for x in (query, key, value)]
        (_, output), grads = jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True)(*arguments)
        return ours, [np.asarray(x) for x in (output, *grads)]


MASKS = {
    "padding": {"mask": np.array([[[[True] * 5 + [False] * 2]], [[[True] * 5 + [False] * 2]]])},
    "rank 2": {"mask": np.array([[True, False, True, True, True, False, False]] * 5)},
    "bias of -inf": {"bias": np.where(np.arange(7) < 5, 0.5, -np.inf)[None, None, None]},
    "unwritten cache": {"is_causal": True},
    "padding and causal": {
        "is_causal": True,
        "query_offset": 1,
        "mask": np.array([[True] * 5 + [False, True]]),
    },
    "before the window": {
        "is_causal": True,
        "query_offset": 2,
        "window": 2,
        "mask": np.array([[True] * 5 + [False] * 2]),
    },
}


INFINITE = [pytest.param(held, marks=pytest.mark.slow) for held in (np.inf, -np.inf)]


@pytest.mark.parametrize("held", [np.nan, *INFINITE])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", MASKS)
def test_fully_masked_key_has_no_influence(kind, implementation, held):
    query, key, value = heads()
    options = MASKS[kind]
    seen = np.isfinite(options["bias"]) if "bias" in options else options.get("mask", np.ones((5, 7), bool))
    offset = options.get("query_offset", 0)
    i, j = np.arange(5)[:, None] + offset, np.arange(7)
    if options.get("is_causal"):
        seen = seen & (j <= i) & (j > i - options.get("window", 99))
    dead = ~np.broadcast_to(seen, (2, 1, 5, 7)).any((0, 1, 2))
    assert dead.any()
    clean = both("reference", query, key, value, **options)
    key[:, :, dead], value[:, :, dead] = held, held
    for right, ours in zip(clean, both(implementation, query, key, value, **options), strict=True):
        for x, y in zip(right, ours, strict=True):
            assert np.isfinite(y).all()
            assert abs(x - y).max() < 1e-12


def test_visible_nan_is_propagated():
    query, key, value = heads()
    key[:, :, 4] = np.nan
    for implementation in IMPLEMENTATIONS:
        for output, *_ in both(implementation, query, key, value, mask=np.ones((5, 7), bool)):
            assert np.isnan(output).all()


def test_reference_masks_a_value_per_query():
    query, key, value = heads(query=7)
    clean = both("reference", query, key, value, is_causal=True)
    key[:, :, 4] = value[:, :, 5] = np.nan
    for right, ours in zip(clean, both("reference", query, key, value, is_causal=True), strict=True):
        assert abs(right[0] - ours[0])[:, :, :4].max() < 1e-15
        assert np.isnan(ours[0][:, :, 4:]).all()
        assert np.isfinite(ours[1][:, :, :4]).all()  # gradients of queries that do not attend to them


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_bias_keeps_its_precision(dtype):
    query, key, value = (torch.tensor(x).to(dtype) for x in heads())
    bias = 300 + torch.rand(1, 6, 5, 7)
    right = torch_ops.dot_product_attention(query, key, value, bias, implementation="reference")
    assert torch.equal(torch_ops.dot_product_attention(query, key, value, bias), right)
    with pytest.raises(NotImplementedError, match="rounds a bias"):
        torch_ops.dot_product_attention(query, key, value, bias, implementation="sdpa")


@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_scale_of_zero_or_below(scale):
    query, key, value = heads(query=7)
    right = both("reference", query, key, value, is_causal=True, scale=scale)[0]
    for ours in both(None, query, key, value, is_causal=True, scale=scale):
        for x, y in zip(right, ours, strict=True):
            assert abs(x - y).max() < 1e-12


# Arguments

KEEP = np.ones((2, 6, 5, 7), bool)
BAD_ARGUMENTS = {
    "boolean bias": (TypeError, {"bias": np.ones((5, 7), bool)}),
    "integer bias": (TypeError, {"bias": np.ones((5, 7), np.int32)}),
    "float mask": (TypeError, {"mask": np.ones((5, 7), np.float32)}),
    "mask of a wrong size": (ValueError, {"mask": np.ones((5, 6), bool)}),
    "dropout_rate above 1": (ValueError, {"dropout_keep": KEEP, "dropout_rate": 1.5}),
    "dropout_rate 1": (ValueError, {"dropout_keep": KEEP, "dropout_rate": 1.0}),
    "dropout_rate below 0": (ValueError, {"dropout_keep": KEEP, "dropout_rate": -0.1}),
    "dropout_rate NaN": (ValueError, {"dropout_keep": KEEP, "dropout_rate": np.nan}),
    "dropout_rate a string": (TypeError, {"dropout_keep": KEEP, "dropout_rate": "0.5"}),
    "dropout_rate alone": (ValueError, {"dropout_rate": 0.5}),
    "is_causal a string": (TypeError, {"is_causal": "no"}),
    "is_causal 1": (TypeError, {"is_causal": 1}),
    "window 2.5": (TypeError, {"is_causal": True, "window": 2.5}),
    "window True": (TypeError, {"is_causal": True, "window": True}),
    "window 0": (ValueError, {"is_causal": True, "window": 0}),
    "query_offset 0.5": (TypeError, {"is_causal": True, "query_offset": 0.5}),
    "query_offset None": (TypeError, {"is_causal": True, "query_offset": None}),
    "softcap 0": (ValueError, {"softcap": 0.0}),
    "softcap -1": (ValueError, {"softcap": -1}),
    "softcap NaN": (ValueError, {"softcap": np.nan}),
    "softcap a string": (TypeError, {"softcap": "5"}),
    "scale NaN": (ValueError, {"scale": np.nan}),
    "scale inf": (ValueError, {"scale": np.inf}),
    "scale a string": (TypeError, {"scale": "1"}),
    "scale True": (TypeError, {"scale": True}),
    "implementation unknown": (ValueError, {"implementation": "fast"}),
}


def refusal(ops, convert, kind, options, change=lambda x: x):
    given = [convert(change(x)) for x in heads(dtype=np.float32)]
    options = {name: convert(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    with pytest.raises(kind) as refused:
        ops.dot_product_attention(*given, **options)
    return str(refused.value)


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_argument_raises_the_same_error(name):
    kind, options = BAD_ARGUMENTS[name]
    said = {refusal(torch_ops, torch.tensor, kind, options), refusal(jax_ops, jnp.asarray, kind, options)}
    if "implementation" not in options:  # each mirror names its own implementations
        assert len(said) == 1
    assert all(len(sentence.splitlines()) == 1 for sentence in said)


@pytest.mark.parametrize("dtype", ["int8", "int32", "bool"])
def test_integer_queries_raise_the_same_error(dtype):
    def change(x):
        return x.astype(dtype)

    said = {
        refusal(ops, convert, TypeError, {}, change)
        for ops, convert in ((torch_ops, torch.tensor), (jax_ops, jnp.asarray))
    }
    assert said == {f"query must be floating point, got {dtype}"}


def test_arrays_of_another_framework_raise():
    given = heads(dtype=np.float32)
    with pytest.raises(TypeError, match=r"torch\.from_numpy"):
        torch_ops.dot_product_attention(*given)
    with pytest.raises(TypeError, match="jax"):
        torch_ops.dot_product_attention(*map(jnp.asarray, given))
    with pytest.raises(TypeError, match=r"torch\.Tensor"):
        jax_ops.dot_product_attention(*map(torch.tensor, given))
    right = jax_ops.dot_product_attention(*map(jnp.asarray, given), is_causal=True, query_offset=2)
    wide = [x.astype(np.float64) for x in given]  # converted to float32, as by `jnp.asarray`
    came = jax_ops.dot_product_attention(*wide, is_causal=True, query_offset=np.array(2))
    assert came.dtype == jnp.float32
    assert (came == right).all()


# Shapes

MASK_SHAPES = [
    (1, 7),
    (5, 1),
    (1, 1),
    (2, 1, 7),
    (1, 5, 7),
    (2, 5, 1),
    (1, 1, 5, 1),
    (1, 1, 1, 7),
    (2, 6, 1, 1),
    (1, 6, 5, 7),
]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", MASK_SHAPES)
def test_mask_and_bias_broadcast_over_any_axis_of_size_1(shape, implementation):
    query, key, value = heads()
    mask = np.random.default_rng(1).random(shape) < 0.8
    (bias,) = arrays(shape, seed=2)
    whole = [x[:, None] if x.ndim == 3 else x for x in (bias, mask)]
    whole = [np.ascontiguousarray(np.broadcast_to(x, (2, 6, 5, 7))) for x in whole]
    right = both("reference", query, key, value, *whole)[0]
    for ours in both(implementation, query, key, value, bias, mask):
        for x, y in zip(right, ours, strict=True):
            assert abs(x - y).max() < 1e-12


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_keys_and_values_with_batch_1_broadcast(implementation):
    query, key, value = heads()
    key, value = key[:1], value[:1]
    right = both("reference", query, np.repeat(key, 2, 0), np.repeat(value, 2, 0))[0][0]
    for ours in both(implementation, query, key, value):
        assert abs(ours[0] - right).max() < 1e-12
        assert ours[2].shape == key.shape


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("sizes", [{"batch": 0}, {"query": 0}, {"key": 0}])
def test_empty_sizes_give_zeros(sizes, implementation):
    query, key, value = heads(**sizes)
    for output, *_ in both(implementation, query, key, value):
        assert output.shape == (*query.shape[:-1], 3)
        assert not output.any()


@pytest.mark.parametrize("sizes", [(0, 7), (5, 0)])
def test_flex_empty_sizes_give_zeros(sizes):
    query, key, value = heads(query=sizes[0], key=sizes[1], dtype=np.float32)
    for ops, convert in ((torch_ops, torch.tensor), (jax_ops, jnp.asarray)):
        output, log_sum = ops.flex_attention(
            *map(convert, (query, key, value)), enable_gqa=True, return_lse=True
        )
        assert tuple(output.shape) == (2, 6, sizes[0], 3)
        assert not np.asarray(output).any()
        assert np.isneginf(np.asarray(log_sum)).all()


@pytest.mark.parametrize("sizes", [(1, 200), (5, 1), (1, 1)])
def test_flex_block_mask_for_one_query_or_one_key(sizes):
    query, key, value = heads(query=sizes[0], key=sizes[1], dtype=np.float32)

    def seen(b, h, i, j):
        return j <= i + 150

    mask = np.arange(sizes[1]) <= np.arange(sizes[0])[:, None] + 150
    for ops, convert in ((torch_ops, torch.tensor), (jax_ops, jnp.asarray)):
        given = list(map(convert, (query, key, value)))
        blocks = ops.create_block_mask(seen, None, None, *sizes)
        came = ops.flex_attention(*given, block_mask=blocks, enable_gqa=True)
        right = ops.dot_product_attention(*given, mask=convert(mask), implementation="reference")
        assert abs(np.asarray(came) - np.asarray(right)).max() < 1e-5


GLOBAL = torch.nn.Parameter(torch.rand(6, dtype=torch.float64))


class _Held:
    def __init__(self, slopes):
        self.slopes = slopes

    def score(self, s, b, h, i, j):
        return s - self.slopes[h] * (i - j)


def _by_global(s, b, h, i, j):
    return s - GLOBAL[h] * (i - j)


def _by_argument(slopes, s, b, h, i, j):
    return s - slopes[h] * (i - j)


def _by_element(s, b, h, i, j, held=(GLOBAL,)):
    return s - held[0][h] * (i - j)


def _by_default(s, b, h, i, j, slopes=GLOBAL):
    return s - slopes[h] * (i - j)


@pytest.mark.parametrize(
    "score",
    [
        _by_global,
        _Held(GLOBAL).score,
        partial(_by_argument, GLOBAL),
        _by_default,
        _by_element,
    ],
    ids=["global", "attribute", "partial", "default", "list"],
)
def test_torch_flex_learns_from_tensors_of_any_origin(score):
    query, key, value = (torch.tensor(x) for x in heads())
    i, j = torch.arange(5)[:, None], torch.arange(7)
    right = torch_ops.dot_product_attention(query, key, value, -GLOBAL[None, :, None, None] * (i - j))
    (expected,) = torch.autograd.grad(right.sin().sum(), GLOBAL)
    came = torch_ops.flex_attention(query, key, value, score, enable_gqa=True)
    (found,) = torch.autograd.grad(came.sin().sum(), GLOBAL)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
