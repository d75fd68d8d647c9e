"""Linear attention, Performer, retention and gated linear attention: equal forms, states, conventions and bad input."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention.linear
import torch_attention.linear
from attention_bridge.parity.comparison import error
from attention_bridge.parity.run import cotangent, named_outputs, on_platform
from attention_bridge.weights import transfer
from benchmarks.linear import DIRECTIONS, FORMS, FRAMEWORKS, benchmark
from parity_tests.helpers.refusals import Case, assert_impossible, assert_refused
from torch_attention.linear import LinearState, MemoryState, PerformerState
from torch_attention.positions.rotary import rotary_frequencies, rotate

BATCH, HEADS, LENGTH, DIM, VALUE_DIM = 2, 3, 7, 4, 5
EXACT = 1e-12


@dataclass(frozen=True)
class Rule:
    """A recurrence: the names of its three forms, and their inputs.

    Attributes:
        recurrent: the definition, one token after the other.
        chunked: the form used in training.
        weights: the function that returns the matrix from values to outputs.
        arrays: makes random inputs of `recurrent` from a generator.
        state: makes a random initial state from a generator.
        unpacked: whether the functions take the state matrix instead of a state object.
    """

    recurrent: str
    chunked: str
    weights: str
    arrays: Callable[[np.random.Generator], dict[str, np.ndarray]]
    state: Callable[[np.random.Generator], Any]
    unpacked: bool


def read(rng, *dims):
    return {
        name: rng.standard_normal((BATCH, HEADS, LENGTH, dim))
        for name, dim in zip(("query", "key", "value"), dims, strict=True)
    }


def positive(rng):
    arrays = read(rng, DIM, DIM, VALUE_DIM)
    arrays["key"][:, :, 2] = -np.inf  # a masked token
    return {name: x if name == "value" else np.exp(x) for name, x in arrays.items()}


def logarithms(rng):
    arrays = read(rng, DIM, DIM, VALUE_DIM)
    arrays["key"][0, :, 2] = -np.inf
    arrays["key"][1, :, :3] = -np.inf  # this sequence begins with masked tokens
    return arrays


def fading(rng, *dims):
    return {
        **read(rng, DIM, DIM, VALUE_DIM),
        "log_decay": -rng.exponential(size=(BATCH, HEADS, LENGTH, *dims)),
    }


def memory(rng):
    return rng.standard_normal((BATCH, HEADS, DIM, VALUE_DIM))


RULES = {
    "linear attention": Rule(
        "recurrent_linear_attention",
        "chunked_linear_attention",
        "linear_attention_weights",
        positive,
        lambda rng: LinearState(memory(rng), rng.exponential(size=(BATCH, HEADS, DIM))),
        unpacked=False,
    ),
    "Performer": Rule(
        "recurrent_performer",
        "chunked_performer",
        "performer_weights",
        logarithms,
        lambda rng: PerformerState(
            memory(rng), rng.exponential(size=(BATCH, HEADS, DIM)), rng.standard_normal((BATCH, HEADS))
        ),
        unpacked=False,
    ),
    "retention": Rule(
        "recurrent_retention",
        "chunked_retention",
        "retention_weights",
        fading,
        lambda rng: MemoryState(memory(rng)),
        unpacked=True,
    ),
    "gated linear attention": Rule(
        "recurrent_gated_linear_attention",
        "chunked_gated_linear_attention",
        "gated_linear_attention_weights",
        lambda rng: fading(rng, DIM),
        None,
        unpacked=True,
    ),
}
RULES["gated linear attention"] = Rule(
    **{**vars(RULES["gated linear attention"]), "state": RULES["retention"].state}
)
each_rule = pytest.mark.parametrize("name", RULES)


def call(mirror, rule, function, arrays, state, **options):
    """Call a function of one mirror, with a state or with None."""
    module = {"torch": torch_attention.linear, "jax": jax_attention.linear}[mirror]
    if state is not None:
        state = state[0] if rule.unpacked else getattr(module, type(state).__name__)(*state)
    return getattr(module, function)(**arrays, state=state, **options)


def run(mirror, rule, function, arrays, state, **options):
    """Outputs and gradients of all inputs, by name, in float64."""

    def loss(tensors, ones):
        given = {name: tensors[name] for name in arrays}
        before = None if state is None else type(state)(*(tensors[name] for name in state._fields))
        outputs = named_outputs(call(mirror, rule, function, given, before, **options))
        flat = list(outputs.values())
        return sum((x * ones(cotangent(tuple(x.shape)))).sum() for x in flat), flat

    everything = {**arrays, **({} if state is None else state._asdict())}
    if mirror == "torch":
        tensors = {name: torch.from_numpy(x.copy()).requires_grad_() for name, x in everything.items()}
        total, flat = loss(tensors, torch.from_numpy)
        gradients = torch.autograd.grad(total, list(tensors.values()))
        return [x.detach().numpy() for x in (*flat, *gradients)]
    with on_platform("cpu", float64=True):
        tensors = {name: jnp.asarray(x) for name, x in everything.items()}
        gradients, flat = jax.jit(jax.grad(partial(loss, ones=jnp.asarray), has_aux=True))(tensors)
        return [np.asarray(x) for x in (*flat, *(gradients[name] for name in everything))]


@pytest.mark.slow
@each_rule
@pytest.mark.parametrize("mirror", ["torch", "jax"])
@pytest.mark.parametrize("going_on", [False, True], ids=["from nothing", "from a state"])
def test_chunks_of_any_size_equal_single_steps_with_their_gradients(mirror, name, going_on, rng):
    rule = RULES[name]
    arrays, state = rule.arrays(rng), rule.state(rng) if going_on else None
    expected = run("torch", rule, rule.recurrent, arrays, state)
    assert all(np.isfinite(x).all() for x in expected)
    if mirror == "jax":
        found = run(mirror, rule, rule.recurrent, arrays, state)
        assert max(map(error, found, expected)) < EXACT
    for size in (1, 2, 3, LENGTH, 64) if mirror == "torch" else (2, 64):
        found = run(mirror, rule, rule.chunked, arrays, state, chunk_size=size)
        assert max(map(error, found, expected)) < EXACT, size


@each_rule
def test_weights_times_values_plus_state_is_the_output(name, rng):
    rule = RULES[name]
    arrays, state = rule.arrays(rng), rule.state(rng)
    tensors = {key: torch.from_numpy(x) for key, x in arrays.items()}
    before = type(state)(*(torch.from_numpy(x) for x in state))
    output, _ = call("torch", rule, rule.recurrent, tensors, before)
    of_state, _ = call("torch", rule, rule.recurrent, {**tensors, "value": 0 * tensors["value"]}, before)
    pairs = {key: x for key, x in tensors.items() if key != "value"}
    weights = getattr(torch_attention.linear, rule.weights)
    weights = weights(**pairs) if rule.unpacked else weights(**pairs, state=before)
    assert error((weights @ tensors["value"] + of_state).numpy(), output.numpy()) < EXACT
    assert not torch.triu(weights, 1).any()


@each_rule
def test_missing_state_is_detected(name, rng):
    rule = RULES[name]
    arrays, state = rule.arrays(rng), rule.state(rng)
    with_state, without = (
        run("torch", rule, rule.chunked, arrays, x, chunk_size=3)[0] for x in (state, None)
    )
    assert error(without, with_state) > 1e-2


MODULES = {
    "LinearAttention": {},
    "PerformerAttention": {"num_features": 7},
    "MultiScaleRetention": {},
    "GatedLinearAttention": {"value_dim": 7, "gate_rank": 4, "gate_temperature": 1.0},
}
each_module = pytest.mark.parametrize("name", MODULES)


def build(name, **options):
    """The same float64 module in both mirrors, with chunks of 3."""
    options = {"embed_dim": 12, "num_heads": 3, "chunk_size": 3, **MODULES[name], **options}
    ours = getattr(torch_attention, name)(**options, dtype=torch.float64)
    with on_platform("cpu", float64=True):
        theirs = getattr(jax_attention, name)(**options, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        return ours, transfer(ours, theirs)


def sequence(rng, length=LENGTH):
    x = rng.standard_normal((BATCH, length, 12))
    mask = np.ones((BATCH, 1, 1, length), bool)
    mask[0, ..., 3], mask[1, ..., :2] = False, False
    return x, mask


def numbers(result):
    return {name: np.asarray(x.tolist()) for name, x in named_outputs(result).items()}


def assert_same(found, expected, bound=EXACT):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert error(found[name], x) < bound, name


def compiled(module):
    """An NNX module as a compiled function."""
    graphdef, parameters = nnx.split(module)
    run = jax.jit(lambda parameters, *args, state: nnx.merge(graphdef, parameters)(*args, state=state))
    return lambda *args, state=None: run(parameters, *args, state=state)


@pytest.mark.slow
@each_module
@pytest.mark.parametrize("mirror", ["torch", "jax"])
def test_two_calls_and_single_steps_equal_one_call(mirror, name, rng):
    ours, theirs = build(name)
    module, array, cuts = {
        "torch": (ours, torch.from_numpy, range(1, LENGTH)),
        "jax": (compiled(theirs), jnp.asarray, (3,)),
    }[mirror]
    with on_platform("cpu", float64=True):
        x, mask = map(array, sequence(rng))
        whole = numbers(module(x, mask))
        for cut in cuts:
            first = module(x[:, :cut], mask[..., :cut])
            second = module(x[:, cut:], mask[..., cut:], state=first.state)
            found = numbers(second)
            found["output"] = np.concatenate([numbers(first)["output"], found["output"]], axis=1)
            assert_same(found, whole)
            state, outputs = first.state, [numbers(first)["output"]]
            for i in range(cut, LENGTH):
                output, state, _ = module(x[:, i : i + 1], mask[..., i : i + 1], state=state)
                outputs.append(numbers(output)["output"])
            assert_same({**numbers(state), "output": np.concatenate(outputs, axis=1)}, whole)


@each_module
def test_masked_token_has_no_effect(name, rng):
    module, _ = build(name)
    x, _ = sequence(rng)
    x = torch.from_numpy(x)
    mask = torch.tensor([True, True, False, True, False, True, True])
    masked = module(x, mask.expand(BATCH, 1, 1, LENGTH))
    short = module(x[:, mask])
    assert_same(numbers(short.state), numbers(masked.state))
    assert error(masked.output[:, mask].detach().numpy(), short.output.detach().numpy()) < EXACT
    assert error(module(x).output[:, mask].detach().numpy(), short.output.detach().numpy()) > 1e-3


@pytest.mark.slow
@each_module
def test_fully_masked_sequence_keeps_the_state_and_finite_gradients(name, rng):
    ours, theirs = build(name)
    x, mask = sequence(rng)
    nothing = np.zeros_like(mask)
    before = ours(*map(torch.from_numpy, (x, mask))).state
    assert_same(
        numbers(ours(torch.from_numpy(x), torch.from_numpy(nothing), state=before).state), numbers(before)
    )
    tensor = torch.from_numpy(x).requires_grad_()
    result = ours(tensor, torch.from_numpy(nothing), need_weights=True)
    assert not result.weights.any()
    of_zero = ours.out_proj(torch.zeros(ours.out_proj.in_features, dtype=torch.float64))
    assert torch.equal(result.output, of_zero.expand_as(result.output))
    sum(y.sum() for y in named_outputs(result).values()).backward()
    assert torch.isfinite(tensor.grad).all()
    with on_platform("cpu", float64=True):
        run = compiled(theirs)
        gradient = jax.grad(lambda y: run(y, jnp.asarray(nothing)).output.sum())(jnp.asarray(x))
    assert np.isfinite(np.asarray(gradient)).all()


@each_module
def test_state_is_at_least_float32_and_output_has_the_input_dtype(name, rng):
    x = torch.from_numpy(sequence(rng)[0])
    for dtype, wide in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        options = {"embed_dim": 12, "num_heads": 3, **MODULES[name]}
        module = getattr(torch_attention, name)(**options, dtype=dtype)
        for length in (1, LENGTH):
            result = module(x[:, :length].to(dtype), need_weights=True)
            assert result.output.dtype == dtype
            assert result.weights.dtype == wide
            assert {y.dtype for y in result.state} == {wide}
            again = module(
                x[:, :length].to(dtype), state=type(result.state)(*(y.double() for y in result.state))
            )
            assert {y.dtype for y in again.state} == {wide}


@pytest.mark.parametrize("name", ["LinearAttention", "PerformerAttention"])
def test_last_token_is_the_same_causal_and_bidirectional(name, rng):
    one_way, _ = build(name)
    both, _ = build(name, is_causal=False)
    both.load_state_dict(one_way.state_dict())
    x, mask = map(torch.from_numpy, sequence(rng))
    causal, bidirectional = one_way(x, mask), both(x, mask, need_weights=True)
    assert error(bidirectional.output[:, -1].detach().numpy(), causal.output[:, -1].detach().numpy()) < EXACT
    assert bidirectional.state is None
    assert torch.allclose(bidirectional.weights.sum(-1), torch.ones((), dtype=torch.float64), atol=1e-5)


def test_retention_without_decay_is_linear_attention_without_denominator(rng):
    arrays = {name: torch.from_numpy(x) for name, x in read(rng, DIM, DIM, VALUE_DIM).items()}
    arrays["query"], arrays["key"] = arrays["query"].exp(), arrays["key"].exp()
    never = torch.zeros(BATCH, HEADS, LENGTH, dtype=torch.float64)
    output, memory = torch_attention.linear.chunked_retention(**arrays, log_decay=never, chunk_size=3)
    normed, state = torch_attention.linear.chunked_linear_attention(**arrays, chunk_size=3, eps=1e-300)
    total = torch.einsum("bhqf,bhqf->bhq", arrays["query"], arrays["key"].cumsum(-2))[..., None]
    assert error((output / total).numpy(), normed.numpy()) < EXACT
    assert error(memory.numpy(), state.memory.numpy()) < EXACT


def test_gated_linear_attention_with_one_decay_per_head_is_retention(rng):
    arrays = {name: torch.from_numpy(x) for name, x in fading(rng).items()}
    repeated = {**arrays, "log_decay": arrays["log_decay"][..., None].expand(-1, -1, -1, DIM)}
    found = torch_attention.linear.chunked_gated_linear_attention(**repeated, chunk_size=3)
    expected = torch_attention.linear.chunked_retention(**arrays, chunk_size=3)
    for x, y in zip(found, expected, strict=True):
        assert error(x.numpy(), y.numpy()) < EXACT


def test_parallel_form_of_retention_equals_the_recurrent_form(rng):
    arrays = {name: torch.from_numpy(x) for name, x in fading(rng).items()}
    output, _ = torch_attention.linear.recurrent_retention(**arrays)
    assert error(torch_attention.linear.parallel_retention(**arrays).numpy(), output.numpy()) < EXACT


@pytest.mark.parametrize("name", ["retention", "gated linear attention"])
def test_immediate_decay_and_no_decay_do_not_overflow(name, rng):
    rule = RULES[name]
    for strength in (0.0, 1e4):
        arrays = {key: x.astype(np.float32) for key, x in rule.arrays(rng).items()}
        arrays["log_decay"] = np.float32(strength) * arrays["log_decay"]
        tensors = {key: torch.from_numpy(x).requires_grad_() for key, x in arrays.items()}
        stepped, chunked = (
            call("torch", rule, function, tensors, None)[0] for function in (rule.recurrent, rule.chunked)
        )
        assert error(chunked.detach().numpy(), stepped.detach().numpy()) < 1e-5
        for gradient in torch.autograd.grad(chunked.sum(), list(tensors.values())):
            assert torch.isfinite(gradient).all()


class TestRetention:
    def test_decays_are_those_of_the_paper(self):
        assert torch_attention.linear.retention_decays(3) == (31 / 32, 63 / 64, 127 / 128)

    def test_slowest_frequency_is_one_over_the_base(self):
        frequencies = torch_attention.linear.retention_frequencies(8)
        assert frequencies == pytest.approx((1.0, 10000 ** (-1 / 3), 10000 ** (-2 / 3), 1e-4))
        assert rotary_frequencies(8)[-1] == pytest.approx(1e-3)
        assert torch_attention.linear.retention_frequencies(2) == (1.0,)

    def test_rotating_the_state_equals_rotating_queries_and_keys(self, rng):
        module, _ = build("MultiScaleRetention")
        x = torch.from_numpy(sequence(rng)[0])
        query, key = (
            proj(x).unflatten(-1, (3, 4)).transpose(1, 2) for proj in (module.q_proj, module.k_proj)
        )
        angles = torch.arange(LENGTH)[:, None] * torch.tensor(module.frequencies, dtype=torch.float64)
        query, key = (rotate(y, angles, interleaved=True) for y in (query, key))
        distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
        for h, gamma in enumerate(torch_attention.linear.retention_decays(3)):
            decay = torch.where(distance >= 0, gamma ** distance.double(), 0.0)
            expected = query[:, h] @ key[:, h].mT * decay / math.sqrt(4)
            found = module(x, need_weights=True).weights[:, h]
            assert error(found.detach().numpy(), expected.detach().numpy()) < EXACT

    def test_half_split_features_differ_from_interleaved_ones(self, rng):
        module, _ = build("MultiScaleRetention")
        halves, _ = build("MultiScaleRetention", interleaved=False)
        halves.load_state_dict(module.state_dict())
        x = torch.from_numpy(sequence(rng)[0])
        assert error(halves(x).output.detach().numpy(), module(x).output.detach().numpy()) > 1e-3
        for proj in ("q_proj", "k_proj"):
            weight = (
                module.state_dict()[f"{proj}.weight"].unflatten(0, (3, 2, 2)).transpose(1, 2).flatten(0, 2)
            )
            halves.state_dict()[f"{proj}.weight"].copy_(weight)
        assert error(halves(x).output.detach().numpy(), module(x).output.detach().numpy()) < EXACT


class TestPerformer:
    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_features_are_orthogonal_per_block_and_keep_their_norms(self, dtype, rng):
        normal = rng.standard_normal((11, 4)).astype(dtype)
        ours = torch_attention.linear.orthogonal_features(torch.from_numpy(normal)).numpy()
        with on_platform("cpu", float64=dtype == "float64"):
            theirs = np.asarray(jax_attention.linear.orthogonal_features(jnp.asarray(normal)))
        assert error(theirs, ours) < (1e-5 if dtype == "float32" else EXACT)
        assert np.allclose(np.linalg.norm(ours, axis=1), np.linalg.norm(normal, axis=1), rtol=1e-5)
        for start in (0, 4, 8):
            block = ours[start : start + 4]
            assert np.allclose(block @ block.T, np.diag(np.diag(block @ block.T)), atol=1e-5)
            assert np.allclose(block[0], normal[start], rtol=1e-5)  # Gram-Schmidt keeps the first

    def test_feature_products_approximate_the_softmax_exponentials(self, rng):
        query, key = (torch.from_numpy(0.5 * rng.standard_normal((1, 1, 6, 4))) for _ in range(2))
        features = torch_attention.linear.orthogonal_features(
            torch.from_numpy(rng.standard_normal((4000, 4)))
        )
        maps = (
            torch_attention.linear.log_softmax_features(x, features).exp() / 4000**0.5 for x in (query, key)
        )
        found = torch.einsum("bhqf,bhkf->bhqk", *maps)
        assert error(found.numpy(), torch.exp(query @ key.mT / 2).numpy()) < 0.05

    @pytest.mark.slow
    def test_module_starts_with_orthogonal_features_in_both(self):
        ours, theirs = (
            torch_attention.PerformerAttention(8, 2, num_features=6),
            jax_attention.PerformerAttention(8, 2, num_features=6, rngs=nnx.Rngs(0)),
        )
        for features in (ours.features.numpy(), np.asarray(theirs.features[...])):
            products = features[:4] @ features[:4].T
            assert np.allclose(products, np.diag(np.diag(products)), atol=1e-5)
        assert not dict(ours.named_parameters()).get("features")
        assert ours.num_features == 6
        assert torch_attention.PerformerAttention(8, 2).num_features == int(4 * math.log(4))

    def test_features_too_large_for_float32_cancel(self, rng):
        arrays = logarithms(rng)
        # Chunks of 1 and of 8 tokens: the subtracted maximum differs.
        moved = {"query": arrays["query"] - 300.0, "key": arrays["key"] + 500.0, "value": arrays["value"]}
        for size in (1, 8):
            exact, found = (
                torch_attention.linear.chunked_performer(
                    **{name: torch.from_numpy(x.astype(np.float32)) for name, x in given.items()},
                    chunk_size=size,
                )[0].numpy()
                for given in (arrays, moved)
            )
            assert (
                error(found, exact) < 1e-4
            )  # float32 rounds 500 by 3e-5, and its exponential has the same relative error

    def test_eps_after_the_subtraction_leaks_the_future(self, rng):
        arrays = read(rng, DIM, DIM, VALUE_DIM)
        later = {**arrays, "key": arrays["key"].copy()}
        later["key"][:, :, -1] += 6.0

        def theirs(given, eps):
            key = np.exp(given["key"] - given["key"].max(axis=(-2, -1), keepdims=True)) + eps
            query = np.exp(given["query"] - given["query"].max(axis=-1, keepdims=True)) + eps
            tensors = map(torch.from_numpy, (query, key, given["value"]))
            return torch_attention.linear.chunked_linear_attention(*tensors, eps=1e-300)[0].numpy()

        def ours(given):
            tensors = {name: torch.from_numpy(x) for name, x in given.items()}
            return torch_attention.linear.chunked_performer(**tensors)[0].numpy()

        before = slice(None), slice(None), slice(-1)
        assert error(theirs(later, 1e-4)[before], theirs(arrays, 1e-4)[before]) > 1e-3
        assert error(ours(later)[before], ours(arrays)[before]) < EXACT
        assert error(theirs(arrays, 0.0), ours(arrays)) < EXACT


@pytest.mark.slow
def test_benchmark_times_every_form_in_both_frameworks():
    for form in FORMS:
        assert hasattr(torch_attention.linear, form.function)
    lines = list(benchmark((8, 16), (8, 16), 1, FORMS[:1]))
    assert {(line[0].framework, line[0].direction) for line in lines} == set(product(FRAMEWORKS, DIRECTIONS))
    for short, long in lines:
        assert short.ratio is None
        assert long.ratio == long.milliseconds / short.milliseconds > 0


def layer(m, name, *, x=(2, 5, 6), **options):
    """A call of a layer with 3 heads of 2 features."""
    own = {"PerformerAttention": {"num_features": 4}, "GatedLinearAttention": {"head_dim": 2}}.get(name, {})
    return partial(getattr(m, name)(6, 3, **own), m.nan(*x), **options)


STATES = {
    "LinearAttention": ("LinearState", {"memory": (2, 3, 2, 2), "normaliser": (2, 3, 2)}),
    "PerformerAttention": (
        "PerformerState",
        {"memory": (2, 3, 4, 2), "normaliser": (2, 3, 4), "exponent": (2, 3)},
    ),
    "MultiScaleRetention": ("MemoryState", {"memory": (2, 3, 2, 4)}),
    "GatedLinearAttention": ("MemoryState", {"memory": (2, 3, 2, 4)}),
}


def going_on(m, name, **wrong):
    """A call with a state; the arguments may replace one of its valid shapes."""
    kind, shapes = STATES[name]
    state = getattr(m, kind)(**{field: m.nan(*shape) for field, shape in {**shapes, **wrong}.items()})
    return layer(m, name, state=state)


KEY_MASK = (
    "mask must have shape (batch, 1, 1, key) = (2, 1, 1, 5) here, "
    "as padding_mask(tokens, pad_id) gives it, got (2, 1, 5, 5)"
)
REFUSED = [
    case
    for name, (_, shapes) in STATES.items()
    for case in (
        Case(
            f"{name} of another size",
            lambda m, name=name: layer(m, name, x=(2, 5, 7)),
            ValueError,
            "x must have shape (batch, length, 6), got (2, 5, 7)",
        ),
        Case(
            f"{name} with a mask for pairs",
            lambda m, name=name: layer(m, name, mask=m.ones(2, 1, 5, 5)),
            ValueError,
            KEY_MASK,
        ),
        Case(
            f"{name} with a mask of numbers",
            lambda m, name=name: layer(m, name, mask=m.ones(2, 1, 1, 5, dtype=np.float32)),
            TypeError,
            "mask must be boolean (True: the query attends to the key), got float32; "
            ".bool() or .astype(bool) converts it, additive values go in bias",
        ),
        *(
            Case(
                f"{name} with a state whose {field} is of another batch",
                lambda m, name=name, field=field, shape=shape: going_on(m, name, **{field: (3, *shape[1:])}),
                ValueError,
                f"state.{field} must have shape {shape}, got {(3, *shape[1:])}",
            )
            for field, shape in shapes.items()
        ),
    )
] + [
    Case(
        f"{name} in both directions with a state",
        lambda m, name=name: partial(
            getattr(m, name)(
                6, 3, is_causal=False, **({"num_features": 4} if name == "PerformerAttention" else {})
            ),
            m.nan(2, 5, 6),
            state=going_on(m, name).keywords["state"],
        ),
        ValueError,
        "state needs is_causal=True: bidirectional attention has no recurrent form, got is_causal=False",
    )
    for name in ("LinearAttention", "PerformerAttention")
]

IMPOSSIBLE = [
    *(
        Case(
            f"{name} with {options}",
            lambda m, name=name, options=options: partial(getattr(m, name), 12, 3, **options),
            ValueError,
            text,
        )
        for name, options, text in (
            *((name, {"chunk_size": 0}, "chunk_size must be at least 1, got 0") for name in MODULES),
            ("LinearAttention", {"eps": 0.0}, "eps must be above 0, got 0.0"),
            ("PerformerAttention", {"num_features": 0}, "num_features must be at least 1, got 0"),
            ("MultiScaleRetention", {"eps": -1.0}, "eps must be at least 0, got -1.0"),
            (
                "MultiScaleRetention",
                {"head_dim": 3},
                "head_dim must be divisible by pair, got head_dim=3 and pair=2",
            ),
            (
                "MultiScaleRetention",
                {"frequencies": (1.0,)},
                "frequencies must be one per pair, 2 for head_dim=4, got 1",
            ),
            ("GatedLinearAttention", {"gate_rank": 0}, "gate_rank must be at least 1, got 0"),
            (
                "GatedLinearAttention",
                {"gate_temperature": 0.0},
                "gate_temperature must be above 0, got 0.0",
            ),
        )
    ),
    *(
        Case(
            f"{name} of heads that do not divide",
            lambda m, name=name: partial(getattr(m, name), 10, 3),
            ValueError,
            "embed_dim must be divisible by num_heads, got embed_dim=10 and num_heads=3",
        )
        for name in ("LinearAttention", "PerformerAttention", "MultiScaleRetention")
    ),
    Case(
        "GatedLinearAttention of heads that do not divide half of the features",
        lambda m: partial(m.GatedLinearAttention, 9, 3),
        ValueError,
        "embed_dim must be divisible by twice_num_heads, got embed_dim=9 and twice_num_heads=6",
    ),
]


@pytest.mark.usefixtures("as_shipped")
class TestRefusals:
    @pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
    def test_bad_input_raises_before_any_arithmetic(self, case):
        assert_refused(case)

    @pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.name)
    def test_bad_arguments_raise(self, case):
        assert_impossible(case)
