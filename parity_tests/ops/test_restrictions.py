"""Two-sided windows, offsets, lengths and segments per batch element, and the logsumexp, against plain numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_attention.ops as jax_ops
import torch_attention.ops as torch_ops

pytestmark = pytest.mark.usefixtures("as_shipped")

BATCH, HEADS, KV_HEADS, QUERY, KEY, DIM, VALUE_DIM = 2, 6, 3, 5, 7, 4, 3
RNG = np.random.default_rng(0)
RESTRICTIONS = {
    "window of both sides": {"window": (1, 2)},
    "window with no limit before": {"window": (None, 1)},
    "window with no limit after": {"window": (2, None), "query_offset": 1},
    "window beyond all": {"window": (2**40, 1)},
    "causal window as a pair": {"window": (1, 3), "is_causal": True, "query_offset": 2},
    "offset of each element": {"is_causal": True, "query_offset": np.array([2, -1])},
    "window and offset of each element": {"window": (1, 1), "query_offset": np.array([6, 1])},
    "key lengths": {"key_lengths": np.array([3, 0])},
    "both lengths": {"query_lengths": np.array([5, 2]), "key_lengths": np.array([3, 6])},
    "lengths and causal": {"query_lengths": np.array([4, 0]), "is_causal": True, "query_offset": 1},
    "segments": {
        "query_segments": RNG.integers(0, 3, (BATCH, QUERY)),
        "key_segments": RNG.integers(0, 3, (BATCH, KEY)),
    },
    "segments, lengths, window and offset": {
        "query_segments": np.array([[7, 7, 7, -2, -2]]),
        "key_segments": np.array([[7, 7, 7, 7, -2, -2, 5]]),
        "key_lengths": np.array([7, 5]),
        "is_causal": True,
        "window": 3,
        "query_offset": np.array([2, 1]),
    },
}
EXTRAS = {
    "plain": {},
    "softcap and sinks": {"softcap": 2.0, "sinks": RNG.standard_normal(HEADS)},
    "mask and bias": {
        "mask": RNG.random((BATCH, 1, QUERY, KEY)) < 0.7,
        "bias": RNG.standard_normal((HEADS, QUERY, KEY))[None],
    },
}
MIRRORS = {"torch": (torch_ops, torch.tensor), "jax": (jax_ops, jnp.asarray)}
ARRAYS = [
    RNG.standard_normal(shape)
    for shape in (
        (BATCH, HEADS, QUERY, DIM),
        (BATCH, KV_HEADS, KEY, DIM),
        (BATCH, KV_HEADS, KEY, VALUE_DIM),
    )
]


def visible(options):
    """The visible keys of each query, from the definition of each option."""
    seen = np.ones((BATCH, 1, QUERY, KEY), bool)
    for b, i, j in np.ndindex(BATCH, QUERY, KEY):
        position = i + int(np.broadcast_to(options.get("query_offset", 0), BATCH)[b])
        before, after = None, None
        if isinstance(options.get("window"), int):
            before, after = options["window"] - 1, 0
        elif options.get("window"):
            before, after = options["window"]
        rules = [
            not options.get("is_causal") or j <= position,
            before is None or j >= position - before,
            after is None or j <= position + after,
            i < options.get("query_lengths", [QUERY] * BATCH)[b],
            j < options.get("key_lengths", [KEY] * BATCH)[b],
        ]
        if "query_segments" in options:
            queries = np.broadcast_to(options["query_segments"], (BATCH, QUERY))
            keys = np.broadcast_to(options["key_segments"], (BATCH, KEY))
            rules.append(queries[b, i] == keys[b, j])
        seen[b, 0, i, j] = all(rules)
    return seen & options.get("mask", True)


def oracle(options):
    """Output and logsumexp in plain numpy."""
    query, key, value = ARRAYS
    scores = np.einsum("bhqd,bhkd->bhqk", query, key.repeat(HEADS // KV_HEADS, 1)) / np.sqrt(DIM)
    scores = scores + options.get("bias", 0.0)
    if "softcap" in options:
        scores = options["softcap"] * np.tanh(scores / options["softcap"])
    shares = np.where(visible(options), np.exp(scores), 0.0)
    total = shares.sum(-1)
    whole = total + np.exp(options["sinks"])[:, None] if "sinks" in options else total
    weights = shares / np.where(whole == 0, 1.0, whole)[..., None]
    with np.errstate(divide="ignore"):
        return np.einsum("bhqk,bhkd->bhqd", weights, value.repeat(HEADS // KV_HEADS, 1)), np.log(total)


def call(mirror, options, arrays=None, **more):
    """Call the operation of a mirror with numpy arrays."""
    ops, array = MIRRORS[mirror]
    given = {name: array(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    return ops.dot_product_attention(*map(array, ARRAYS if arrays is None else arrays), **given, **more)


def assert_close(ours, right):
    np.testing.assert_allclose(np.asarray(ours), right, rtol=1e-12, atol=1e-12)


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


# In JAX, each restriction with one extra option; in PyTorch, which does not compile, with all of them.
WITH = [
    (name, extra, mirror)
    for i, name in enumerate(RESTRICTIONS)
    for j, extra in enumerate(EXTRAS)
    for mirror in MIRRORS
    if mirror == "torch" or i % len(EXTRAS) == j
]


@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
@pytest.mark.parametrize(("name", "extra", "mirror"), WITH)
def test_output_and_logsumexp_equal_numpy(name, extra, implementation, mirror):
    options = {**RESTRICTIONS[name], **EXTRAS[extra]}
    output, log_sum = oracle(options)
    ours = call(mirror, options, implementation=implementation, return_logsumexp=True)
    assert_close(ours[0], output)
    assert_close(ours[1], log_sum)


@pytest.mark.parametrize("name", RESTRICTIONS)
def test_default_implementation_equals_numpy(name):
    output, _ = oracle(RESTRICTIONS[name])
    for mirror in MIRRORS:
        assert_close(call(mirror, RESTRICTIONS[name]), output)


@pytest.mark.parametrize(("mirror", "native"), [("torch", "sdpa"), ("jax", "xla")])
@pytest.mark.parametrize("name", RESTRICTIONS)
def test_native_kernels_obey_every_restriction(name, native, mirror):
    arrays = [x.astype(np.float32)[..., :VALUE_DIM] for x in ARRAYS]
    ours = call(mirror, RESTRICTIONS[name], arrays, implementation=native)
    right = call(mirror, RESTRICTIONS[name], arrays, implementation="reference")
    np.testing.assert_allclose(np.asarray(ours), np.asarray(right), rtol=1e-5, atol=1e-5)


def gradients(mirror, options, implementation):
    """Gradients of query, key and value of a function of output and logsumexp."""
    if mirror == "jax":

        def loss(*arrays):
            given = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
            output, log_sum = jax_ops.dot_product_attention(
                *arrays, **given, implementation=implementation, return_logsumexp=True
            )
            return jnp.sin(output).sum() + jnp.where(jnp.isfinite(log_sum), jnp.sin(log_sum), 0.0).sum()

        return jax.grad(loss, argnums=(0, 1, 2))(*map(jnp.asarray, ARRAYS))
    arrays = [torch.tensor(x, requires_grad=True) for x in ARRAYS]
    given = {name: torch.tensor(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    output, log_sum = torch_ops.dot_product_attention(
        *arrays, **given, implementation=implementation, return_logsumexp=True
    )
    loss = output.sin().sum() + torch.where(log_sum.isfinite(), log_sum.sin(), 0.0).sum()
    return torch.autograd.grad(loss, arrays)


@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("window with no limit after", marks=pytest.mark.slow),
        pytest.param("both lengths", marks=pytest.mark.slow),
        "segments, lengths, window and offset",
    ],
)
def test_gradients_equal_those_of_the_same_restriction_as_a_mask(name, implementation):
    options = {**RESTRICTIONS[name], "sinks": EXTRAS["softcap and sinks"]["sinks"]}
    as_mask = {"mask": visible(options), "sinks": options["sinks"]}
    right = gradients("torch", as_mask, "reference")
    for mirror in MIRRORS:
        for ours, expected in zip(gradients(mirror, options, implementation), right, strict=True):
            assert_close(ours, np.asarray(expected))


@pytest.mark.parametrize("mirror", MIRRORS)
@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
def test_logsumexp_of_a_fully_masked_row_has_no_gradient(implementation, mirror):
    mask = np.zeros((QUERY, KEY), bool)
    _, log_sum = call(mirror, {"mask": mask}, implementation=implementation, return_logsumexp=True)
    assert bool((np.asarray(log_sum) == -np.inf).all())
    for gradient in gradients(mirror, {"mask": mask}, implementation):
        assert not np.asarray(gradient).any()


@pytest.mark.parametrize("mirror", MIRRORS)
def test_logsumexp_is_float32_for_16_bits(mirror):
    ops, array = MIRRORS[mirror]
    dtype = {"torch": torch.bfloat16, "jax": jnp.bfloat16}[mirror]
    arrays = [x.to(dtype) if mirror == "torch" else x.astype(dtype) for x in map(array, ARRAYS)]
    for implementation in ("reference", "blockwise"):
        output, log_sum = ops.dot_product_attention(
            *arrays, implementation=implementation, return_logsumexp=True
        )
        assert output.dtype == dtype
        assert str(log_sum.dtype).endswith("float32")


@pytest.mark.parametrize("mirror", MIRRORS)
def test_logsumexp_joins_two_halves_of_the_keys(mirror):
    query, key, value = ARRAYS
    parts = [
        tuple(map(np.asarray, call(mirror, {}, (query, key[:, :, s], value[:, :, s]), return_logsumexp=True)))
        for s in (slice(0, 3), slice(3, None))
    ]
    whole = np.logaddexp(parts[0][1], parts[1][1])
    joined = sum(output * np.exp(log_sum - whole)[..., None] for output, log_sum in parts)
    assert_close(joined, oracle({})[0])


@pytest.mark.parametrize("mirror", MIRRORS)
@pytest.mark.parametrize("implementation", [None, "reference", "blockwise"])
def test_entries_beyond_a_length_have_no_influence(implementation, mirror):
    options, held = RESTRICTIONS["both lengths"], np.nan
    arrays = [x.copy() for x in ARRAYS]
    for b in range(BATCH):
        arrays[0][b, :, options["query_lengths"][b] :] = held
        arrays[1][b, :, options["key_lengths"][b] :] = held
        arrays[2][b, :, options["key_lengths"][b] :] = held
    output, log_sum = oracle(options)
    ours = call(mirror, options, arrays, implementation=implementation, return_logsumexp=True)
    assert_close(ours[0], output)
    assert_close(ours[1], log_sum)


@pytest.mark.parametrize("mirror", MIRRORS)
@pytest.mark.parametrize("implementation", [None, "reference", "blockwise"])
@pytest.mark.parametrize(
    "name", ["segments, lengths, window and offset", "window and offset of each element"]
)
def test_fully_masked_key_has_no_influence(name, implementation, mirror):
    options = RESTRICTIONS[name]
    dead = ~visible(options).any(2)[:, 0]
    assert dead.any()
    arrays = [x.copy() for x in ARRAYS]
    arrays[1][np.broadcast_to(dead[:, None], arrays[1].shape[:-1])] = np.nan
    arrays[2][np.broadcast_to(dead[:, None], arrays[2].shape[:-1])] = np.nan
    assert_close(call(mirror, options, arrays, implementation=implementation), oracle(options)[0])


@pytest.mark.parametrize(
    ("kind", "mirror"),
    [
        pytest.param(kind, mirror, marks=[pytest.mark.slow] if mirror == "jax" and kind != "segments" else [])
        for kind in ("segments", "lengths", "offsets", "window")
        for mirror in MIRRORS
    ],
)
def test_tiles_obey_restrictions_across_several_tiles(kind, mirror):
    length, rng = 1100, np.random.default_rng(1)
    arrays = [rng.standard_normal((2, 1, length, 2)) for _ in range(3)]
    options = {
        "segments": {"query_segments": np.sort(rng.integers(0, 4, (2, length))), "is_causal": True},
        "lengths": {"query_lengths": np.array([1100, 700]), "key_lengths": np.array([300, 900])},
        "offsets": {"query_offset": np.array([0, -600]), "is_causal": True},
        "window": {"window": (20, 600)},
    }[kind]
    ours = call(mirror, options, arrays, implementation="blockwise", return_logsumexp=True)
    right = call(mirror, options, arrays, implementation="reference", return_logsumexp=True)
    for found, expected in zip(ours, right, strict=True):
        assert_close(found, np.asarray(expected))


def test_restrictions_may_be_traced_and_mapped():
    options = RESTRICTIONS["segments, lengths, window and offset"]
    numbers = {name: jnp.asarray(x) for name, x in options.items() if isinstance(x, np.ndarray)}
    fixed = {name: x for name, x in options.items() if name not in numbers}
    for implementation in ("reference", "blockwise"):
        run = partial(jax_ops.dot_product_attention, implementation=implementation, **fixed)
        traced = jax.jit(lambda *x, run=run, **y: run(*x, **y))(*map(jnp.asarray, ARRAYS), **numbers)
        assert_close(traced, oracle(options)[0])
    lengths = np.array([[3, 2], [7, 5]])
    many = jax.vmap(lambda x: jax_ops.dot_product_attention(*map(jnp.asarray, ARRAYS), key_lengths=x))
    for found, given in zip(many(jnp.asarray(lengths)), lengths, strict=True):
        assert_close(found, oracle({"key_lengths": given})[0])


@pytest.mark.slow
def test_torch_compiles_every_restriction_into_one_graph():
    options = {
        name: torch.tensor(x) if isinstance(x, np.ndarray) else x
        for name, x in RESTRICTIONS["segments, lengths, window and offset"].items()
    }
    for implementation in ("reference", "blockwise", None):
        run = torch.compile(
            partial(torch_ops.dot_product_attention, implementation=implementation, return_logsumexp=True),
            backend="eager",
            fullgraph=True,
        )
        output, log_sum = oracle(RESTRICTIONS["segments, lengths, window and offset"])
        ours = run(*map(torch.tensor, ARRAYS), **options)
        assert_close(ours[0], output)
        assert_close(ours[1], log_sum)


@pytest.mark.parametrize(
    "options", [{"query_segments": True}, {"window": (2, 0)}, {"window": (2, 3), "is_causal": True}]
)
def test_equivalent_options_give_the_same(options):
    x = RNG.standard_normal((BATCH, HEADS, QUERY, DIM))
    segments = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]])
    same = {"window": 3, "is_causal": True}
    if "query_segments" in options:
        options, same = {"query_segments": segments}, {"query_segments": segments, "key_segments": segments}
    for mirror in MIRRORS:
        assert_close(call(mirror, options, (x, x, x)), np.asarray(call(mirror, same, (x, x, x))))


BAD = {
    "three sides": (
        {"window": (1, 2, 3)},
        "window must be an integer or a pair (before, after), got (1, 2, 3)",
    ),
    "a negative side": (
        {"window": (-1, 2)},
        "window must count at least 0 keys before and after the query, got (-1, 2)",
    ),
    "a fraction": (
        {"window": (1.5, 2)},
        "window must hold integers, or None for no limit, got (1.5, 2)",
    ),
    "too many lengths": (
        {"key_lengths": np.array([1, 2, 3])},
        "key_lengths must have shape (batch) = (2,), got (3,)",
    ),
    "one length": ({"query_lengths": 3}, None),
    "lengths that are no integers": (
        {"query_lengths": np.array([1.0, 2.0])},
        "query_lengths must hold integers, got float64",
    ),
    "segments of the keys alone": (
        {"key_segments": np.zeros((BATCH, KEY), int)},
        "query_segments and key_segments must be given together where queries and keys differ in length",
    ),
    "segments of another length": (
        {"query_segments": np.zeros((BATCH, 4), int), "key_segments": np.zeros((BATCH, KEY), int)},
        "query_segments must have shape (batch, query) = (2, 5), got (2, 4)",
    ),
    "offsets of another batch": (
        {"query_offset": np.array([1, 2, 3])},
        "query_offset must have shape (batch) = (2,), got (3,)",
    ),
    "sinks in a list": ({"sinks": [0.0] * HEADS}, None),
    "sinks of integers": ({"sinks": np.zeros(HEADS, np.int32)}, "sinks must be floating point, got int32"),
    "a flag that is none": (
        {"return_logsumexp": 1},
        "return_logsumexp must be True or False, got 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_restriction_raises_the_same_error(name):
    options, sentence = BAD[name]
    errors = []
    for mirror in MIRRORS:
        with pytest.raises((TypeError, ValueError)) as error:
            call(mirror, options)
        errors.append(error.value)
    assert len({type(error) for error in errors}) == 1
    if sentence is not None:
        assert {str(error) for error in errors} == {sentence}


@pytest.mark.parametrize(("mirror", "native"), [("torch", "sdpa"), ("jax", "xla"), ("jax", "splash")])
def test_kernels_without_logsumexp_say_so(native, mirror):
    with pytest.raises(NotImplementedError, match=r"gives no logsumexp"):
        call(mirror, {}, implementation=native, return_logsumexp=True)


@pytest.mark.parametrize("mirror", MIRRORS)
@pytest.mark.parametrize("name", ["scale", "softcap"])
def test_learned_scalar_gets_its_gradient_by_default_and_tiles_raise(name, mirror):
    x = RNG.standard_normal((1, 1, 600, 2))
    if mirror == "torch":
        given = torch.tensor(x)
        number = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        run = partial(torch_ops.dot_product_attention, given, given, given)
        slopes = [
            torch.autograd.grad(run(**{name: number}, implementation=each).square().sum(), number)[0]
            for each in (None, "reference")
        ]
    else:
        number = jnp.asarray(0.5)

        def loss(number, each):
            given = jnp.asarray(x)
            call = partial(jax_ops.dot_product_attention, given, given, given)
            return (call(**{name: number}, implementation=each) ** 2).sum()

        slopes = [jax.grad(loss)(number, each) for each in (None, "reference")]
    assert float(slopes[0]) != 0
    assert_close(slopes[0].detach() if mirror == "torch" else slopes[0], float(slopes[1]))
    with pytest.raises(NotImplementedError, match=f"^blockwise attention needs a {name} that is a number"):
        call(mirror, {}, **{name: number}, implementation="blockwise")


@pytest.mark.parametrize("mirror", MIRRORS)
@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
def test_fully_masked_row_with_a_sink_of_minus_infinity_is_zero(implementation, mirror):
    options = {"sinks": np.full(HEADS, -np.inf), "key_lengths": np.array([0, 3])}
    assert_close(call(mirror, options, implementation=implementation), oracle(options)[0])


@pytest.mark.slow
def test_torch_compiles_tiles_without_learned_scalars():
    query, key, value = map(torch.tensor, ARRAYS)
    run = torch.compile(
        lambda x: torch_ops.dot_product_attention(x, key, value, softcap=2.0, implementation="blockwise"),
        backend="eager",
        fullgraph=True,
    )
    assert_close(run(query), oracle({"softcap": 2.0})[0])


def test_integers_beyond_32_bits_raise_instead_of_being_cut():
    segments = np.array([[0, 0, 1, 1, 1]]) * 2**32
    x = np.zeros((1, 1, 5, 2), np.float32)
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"^integers must fit in int32"):
        jax_ops.dot_product_attention(x, x, x, query_segments=segments)
