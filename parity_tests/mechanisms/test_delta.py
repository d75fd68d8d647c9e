"""Delta rules and state-space duality: equal forms, states, decays, special cases and bad input."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import Qwen3NextConfig
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

import jax_attention.linear
import jax_attention.ops
import torch_attention.linear
import torch_attention.ops
from attention_bridge.catalogue import Part
from attention_bridge.parity.comparison import error
from attention_bridge.parity.instances import build, jax_with
from attention_bridge.parity.run import cotangent, on_platform
from attention_bridge.weights import transfer
from parity_tests.helpers.refusals import Case, assert_impossible, assert_refused
from parity_tests.peers.delta import qwen3_next_weights, randomise
from torch_attention.linear import ConvolvedState

BATCH, HEADS, LENGTH, DIM, VALUE_DIM = 2, 3, 7, 4, 5
EXACT = 1e-12
LINEAR = {"torch": torch_attention.linear, "jax": jax_attention.linear}
OPS = {"torch": torch_attention.ops, "jax": jax_attention.ops}
each_mirror = pytest.mark.parametrize("mirror", LINEAR)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def delta(rng):
    query, key = (unit(rng.standard_normal((BATCH, HEADS, LENGTH, DIM))) for _ in range(2))
    value = rng.standard_normal((BATCH, HEADS, LENGTH, VALUE_DIM))
    return {"query": query, "key": key, "value": value, "beta": rng.random((BATCH, HEADS, LENGTH))}


def fading(rng, *dims):
    return {"log_decay": -rng.exponential(size=(BATCH, HEADS, LENGTH, *dims))}


def state_space(rng):
    return {name: x for name, x in delta(rng).items() if name != "beta"} | fading(rng)


# The names of the rules, and the arrays that their functions take.
RULES = {
    "delta_rule": delta,
    "gated_delta_rule": lambda rng: delta(rng) | fading(rng),
    "kimi_delta_rule": lambda rng: delta(rng) | fading(rng, DIM),
    "state_space": state_space,
}
LAYERS = {
    "DeltaNet": {"num_heads": 3, "head_dim": 4, "value_dim": 5},
    "GatedDeltaNet": {"num_heads": 2, "num_value_heads": 4, "head_dim": 3, "value_dim": 5},
    "KimiDeltaAttention": {"num_heads": 3, "head_dim": 4, "value_dim": 5, "rank": 2},
    "Mamba2": {"num_heads": 4, "head_dim": 3, "state_dim": 5, "num_groups": 2},
}
each_rule = pytest.mark.parametrize("rule", RULES)
each_layer = pytest.mark.parametrize("name", LAYERS)


@pytest.fixture
def memory(rng):
    return rng.standard_normal((BATCH, HEADS, DIM, VALUE_DIM))


def call(mirror, function, arrays):
    """Call a function of a mirror with numpy arrays, in their precision."""
    if mirror == "torch":
        result = function(**{name: torch.from_numpy(x) for name, x in arrays.items()})
        return jax.tree.map(lambda x: x.numpy(), result)
    with on_platform("cpu", float64=all(x.dtype == np.float64 for x in arrays.values())):
        result = jax.jit(function)(**{name: jnp.asarray(x) for name, x in arrays.items()})
        return jax.tree.map(np.asarray, result)


@cache
def forward_backward(name, options):
    """The results of a rule in JAX and the gradients of their weighted sum, compiled once for all tests."""

    def loss(tensors):
        results = getattr(jax_attention.linear, name)(**tensors, **dict(options))
        return sum((x * cotangent(x.shape)).sum() for x in results), results

    return jax.jit(jax.grad(loss, has_aux=True))


def both(mirror, name, arrays, **options):
    """Results of a rule, and the gradients of all arrays for a randomly weighted sum of all results."""
    if mirror == "torch":
        tensors = {key: torch.from_numpy(x.copy()).requires_grad_() for key, x in arrays.items()}
        results = getattr(torch_attention.linear, name)(**tensors, **options)
        loss = sum((x * torch.from_numpy(cotangent(tuple(x.shape)))).sum() for x in results)
        found = torch.autograd.grad(loss, list(tensors.values()))
        slopes = {key: x.numpy() for key, x in zip(tensors, found, strict=True)}
        return tuple(x.detach().numpy() for x in results), slopes
    with on_platform("cpu", float64=True):
        tensors = {key: jnp.asarray(x) for key, x in arrays.items()}
        slopes, results = forward_backward(name, tuple(options.items()))(tensors)
        return jax.tree.map(np.asarray, (results, slopes))


def form(mirror, name, arrays, **options):
    """The results of one form of a rule."""
    return both(mirror, name, arrays, **options)[0]


def assert_same(ours, theirs, bound=EXACT):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert error(one, other) <= bound


class TestForms:
    @pytest.mark.slow
    @each_mirror
    @each_rule
    def test_chunks_of_any_size_equal_single_steps(self, mirror, rule, rng, memory):
        arrays = RULES[rule](rng) | {"state": memory}
        recurrent = both(mirror, f"recurrent_{rule}", arrays)
        for chunk_size in (1, 2, 3, 7, 64) if mirror == "torch" else (3,):
            assert_same(both(mirror, f"chunked_{rule}", arrays, chunk_size=chunk_size), recurrent)

    @each_rule
    def test_mirrors_agree_in_every_form(self, rule, rng, memory):
        arrays = RULES[rule](rng) | {"state": memory}
        for name, options in ((f"recurrent_{rule}", {}), (f"chunked_{rule}", {"chunk_size": 3})):
            assert_same(both("torch", name, arrays, **options), both("jax", name, arrays, **options))

    @each_rule
    def test_no_state_is_a_state_of_zeros(self, rule, rng, memory):
        arrays = RULES[rule](rng)
        for name in (f"recurrent_{rule}", f"chunked_{rule}"):
            empty = form("torch", name, arrays | {"state": 0 * memory})
            assert_same(form("torch", name, arrays), empty)

    @each_mirror
    @each_rule
    def test_weights_times_values_plus_state_is_the_output(self, mirror, rule, rng, memory):
        arrays = RULES[rule](rng)
        weighing = {name: x for name, x in arrays.items() if name != "value"}
        weights = call(mirror, getattr(LINEAR[mirror], f"{rule}_weights"), weighing)
        assert weights.shape == (BATCH, HEADS, LENGTH, LENGTH)
        assert not np.triu(weights, 1).any()
        output, _ = form(mirror, f"recurrent_{rule}", arrays | {"state": memory})
        of_state, _ = form(
            mirror, f"recurrent_{rule}", arrays | {"state": memory, "value": 0 * arrays["value"]}
        )
        assert error(weights @ arrays["value"] + of_state, output) <= EXACT

    @each_mirror
    def test_state_space_duality(self, mirror, rng, memory):
        arrays = state_space(rng)
        output, _ = form(mirror, "recurrent_state_space", arrays | {"state": 0 * memory})
        assert error(call(mirror, LINEAR[mirror].parallel_state_space, arrays), output) <= EXACT

    @each_rule
    def test_single_token_is_a_sequence(self, rule, rng, memory):
        arrays = {name: x[:, :, :1] for name, x in RULES[rule](rng).items()} | {"state": memory}
        assert_same(both("torch", f"chunked_{rule}", arrays), both("torch", f"recurrent_{rule}", arrays))

    @each_rule
    @pytest.mark.parametrize("kind", ["recurrent", "chunked"])
    def test_output_has_the_dtype_of_the_query_and_state_at_least_float32(self, rule, kind, rng):
        shapes = {name: x.shape for name, x in RULES[rule](rng).items()}
        ours = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
        output, memory = getattr(torch_attention.linear, f"{kind}_{rule}")(**ours)
        assert (output.dtype, memory.dtype) == (torch.bfloat16, torch.float32)
        theirs = {name: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for name, shape in shapes.items()}
        output, memory = jax.eval_shape(getattr(jax_attention.linear, f"{kind}_{rule}"), **theirs)
        assert (output.dtype, memory.dtype) == (jnp.bfloat16, jnp.float32)


class TestRules:
    @each_mirror
    def test_gated_rule_without_decay_is_the_delta_rule(self, mirror, rng, memory):
        arrays = delta(rng) | {"state": memory}
        still = arrays | {"log_decay": np.zeros((BATCH, HEADS, LENGTH))}
        for kind, options in (("recurrent", {}), ("chunked", {"chunk_size": 3})):
            gated = form(mirror, f"{kind}_gated_delta_rule", still, **options)
            assert_same(gated, form(mirror, f"{kind}_delta_rule", arrays, **options))

    @each_mirror
    def test_kimi_rule_with_equal_channel_decays_is_the_gated_rule(self, mirror, rng, memory):
        arrays = RULES["gated_delta_rule"](rng) | {"state": memory}
        channels = arrays | {"log_decay": np.repeat(arrays["log_decay"][..., None], DIM, axis=-1)}
        for kind, options in (("recurrent", {}), ("chunked", {"chunk_size": 3})):
            kimis = form(mirror, f"{kind}_kimi_delta_rule", channels, **options)
            assert_same(kimis, form(mirror, f"{kind}_gated_delta_rule", arrays, **options))

    @each_mirror
    def test_decay_per_head_differs_from_decay_per_channel(self, mirror, rng, memory):
        arrays = RULES["kimi_delta_rule"](rng) | {"state": memory}
        heads = arrays | {"log_decay": arrays["log_decay"].mean(axis=-1)}
        output, last = form(mirror, "recurrent_kimi_delta_rule", arrays)
        others, another = form(mirror, "recurrent_gated_delta_rule", heads)
        assert error(others, output) > 0.05
        assert error(another, last) > 0.05

    @each_mirror
    def test_kimi_decays_every_channel_of_every_head(self, mirror):
        layer = layers("KimiDeltaAttention")[mirror]
        shapes = {
            "torch": lambda: layer.f_b_proj.weight.shape,
            "jax": lambda: layer.f_b_proj.kernel.shape[::-1],
        }
        assert tuple(shapes[mirror]()) == (3 * 4, 2)
        assert tuple(layer.dt_bias.shape) == (3 * 4,)
        assert tuple(layer.A_log.shape) == (3,)

    @each_mirror
    def test_orthogonal_keys_need_no_correction(self, mirror, rng, memory):
        arrays = RULES["gated_delta_rule"](rng)
        arrays["key"][:, :, :DIM], arrays["beta"][:, :, DIM:] = np.eye(DIM), 0.0  # at most 4 orthogonal keys
        added = {name: arrays[name] for name in ("query", "key", "log_decay")}
        added["value"] = arrays["beta"][..., None] * arrays["value"]
        corrected = form(mirror, "recurrent_gated_delta_rule", arrays | {"state": 0 * memory})
        assert_same(corrected, form(mirror, "recurrent_state_space", added | {"state": 0 * memory}))

    @each_mirror
    def test_unit_key_at_full_rate_returns_the_value_just_stored(self, mirror, rng, memory):
        arrays = delta(rng) | {"state": memory}
        full = arrays | {"query": arrays["key"], "beta": np.ones((BATCH, HEADS, LENGTH))}
        output, _ = form(mirror, "chunked_delta_rule", full, chunk_size=3)
        assert error(output, arrays["value"]) <= EXACT
        _, same = form(mirror, "chunked_delta_rule", arrays | {"beta": 0 * arrays["beta"]}, chunk_size=3)
        assert np.array_equal(same, memory)

    @each_rule
    def test_token_without_write_or_decay_has_no_effect(self, rule, rng, memory):
        arrays = RULES[rule](rng)
        without = {name: np.delete(x, 3, axis=2) for name, x in arrays.items()}
        for name in arrays.keys() & {"log_decay", "beta" if "beta" in arrays else "value"}:
            arrays[name][:, :, 3] = 0.0
        output, last = form("torch", f"chunked_{rule}", arrays | {"state": memory}, chunk_size=2)
        expected, also_last = form("torch", f"chunked_{rule}", without | {"state": memory}, chunk_size=2)
        assert error(np.delete(output, 3, axis=2), expected) <= EXACT
        assert error(last, also_last) <= EXACT


class TestDecays:
    @each_mirror
    def test_products_of_decays(self, mirror, rng):
        log_decay = -rng.exponential(size=(2, 6))
        found = call(mirror, OPS[mirror].decay_matrix, {"log_decay": log_decay})
        for t in range(6):
            for s in range(6):
                expected = np.prod(np.exp(log_decay[:, s + 1 : t + 1]), axis=-1) if s <= t else 0.0
                assert found[:, t, s] == pytest.approx(expected, rel=1e-13)

    @each_mirror
    @pytest.mark.parametrize("length", [1, 2, 3, 5, 8])
    def test_decayed_products_of_any_length(self, mirror, length, rng):
        read, written = rng.standard_normal((2, length, 4)), rng.standard_normal((length, 4))
        log_decay = -rng.exponential(size=(length, 4))
        found = call(
            mirror,
            OPS[mirror].decayed_products,
            {"read": read, "written": written, "log_decay": log_decay},
        )
        expected = np.zeros((2, length, length))
        for t in range(length):
            for s in range(t + 1):
                left = np.exp(log_decay[s + 1 : t + 1].sum(axis=0))
                expected[:, t, s] = (read[:, t] * written[s] * left).sum(axis=-1)
        assert error(found.products, expected) <= EXACT
        assert error(found.since_start, np.exp(np.cumsum(log_decay, axis=0))) <= EXACT
        until = np.exp([log_decay[s + 1 :].sum(axis=0) for s in range(length)])
        assert error(found.until_end, until) <= EXACT

    @each_mirror
    def test_decays_after_a_reset_are_exact(self, mirror):
        log_decay = np.full((12, 1), -1e-3, np.float32)
        log_decay[:4] = -1e4
        exact = np.exp(np.float64(log_decay[6:, 0]).sum())  # from step 5 to the last
        ones = np.ones((12, 1), np.float32)
        by_head = call(mirror, OPS[mirror].decay_matrix, {"log_decay": log_decay[:, 0]})
        by_channel = call(
            mirror, OPS[mirror].decayed_products, {"read": ones, "written": ones, "log_decay": log_decay}
        ).products
        sums = np.cumsum(log_decay[:, 0])
        assert (
            abs(np.exp(sums[-1] - sums[5]) / exact - 1) > 1e-3
        )  # as a difference of cumulative sums computes it
        assert abs(by_head[-1, 5] / exact - 1) < 1e-6
        assert abs(by_channel[-1, 5] / exact - 1) < 1e-6

    @each_mirror
    @pytest.mark.parametrize("rule", ["gated_delta_rule", "kimi_delta_rule", "state_space"])
    def test_immediate_decay_stays_finite_with_its_gradients(self, mirror, rule, rng, memory):
        arrays = RULES[rule](rng) | {"state": memory}
        arrays["log_decay"] *= 1000.0
        for name, options in ((f"recurrent_{rule}", {}), (f"chunked_{rule}", {"chunk_size": 3})):
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(both(mirror, name, arrays, **options)))

    @pytest.mark.slow
    @each_mirror
    def test_initial_decays_equal_those_of_trained_models(self, mirror):
        options = {"torch": {}, "jax": {"rngs": nnx.Rngs(0)}}[mirror]
        for name in ("GatedDeltaNet", "KimiDeltaAttention", "Mamba2") if mirror == "torch" else ("Mamba2",):
            layer = getattr(LINEAR[mirror], name)(64, 16, **options)
            rates = np.exp(layer.A_log[...].tolist())
            steps = np.log1p(np.exp(layer.dt_bias[...].tolist()))
            assert rates.min() >= 1.0 - 1e-5
            assert rates.max() <= 16.0 + 1e-4
            assert steps.min() >= 1e-3 - 1e-6
            assert steps.max() <= 1e-1 + 1e-6
            assert np.unique(rates).size == rates.size


class TestOps:
    @each_mirror
    def test_triangular_solve_reads_only_below_the_diagonal(self, mirror, rng):
        lower, right = rng.standard_normal((2, 5, 5)), rng.standard_normal((2, 5, 3))
        found = call(mirror, OPS[mirror].solve_unit_lower, {"lower": lower, "right": right})
        assert error(found, np.linalg.solve(np.tril(lower, -1) + np.eye(5), right)) <= EXACT

    @each_mirror
    @pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 64])
    def test_chunks_are_padded_with_zeros_and_join_again(self, mirror, chunk_size, rng):
        x = rng.standard_normal((2, 3, 7, 4))
        chunks = call(mirror, partial(OPS[mirror].split_chunks, chunk_size=chunk_size), {"x": x})
        size = min(chunk_size, 7)
        assert chunks.shape == (-(-7 // size), 2, 3, size, 4)
        assert chunks.sum() == pytest.approx(x.sum())
        assert np.array_equal(call(mirror, partial(OPS[mirror].join_chunks, length=7), {"x": chunks}), x)


@cache
def layers(name):
    """A layer of each mirror in float64, with the same random weights and chunks of two tokens."""
    part = Part(name, {"embed_dim": 6, "chunk_size": 2, **LAYERS[name]})
    ours = build(part, "torch_attention", {"dtype": torch.float64})
    rng = np.random.default_rng(3)
    weights = {key: 0.5 * rng.standard_normal(x.shape) for key, x in sorted(ours.state_dict().items())}
    with on_platform("cpu", float64=True):
        theirs = jax_with(part, weights, {"param_dtype": "float64"})
        return {"torch": transfer(weights, ours.eval()), "jax": theirs}


@cache
def compiled(name):
    graphdef, parameters = nnx.split(layers(name)["jax"])
    return jax.jit(
        lambda x, mask, state: nnx.merge(graphdef, parameters)(x, mask, state=state, need_weights=True)
    )


def read(mirror, name, x, mask=None, state=None):
    """The result of a layer for numpy arrays."""
    if mirror == "torch":
        state = None if state is None else ConvolvedState(*map(torch.from_numpy, state))
        mask = None if mask is None else torch.from_numpy(mask)
        found = layers(name)["torch"](torch.from_numpy(x), mask, state=state, need_weights=True)
        return jax.tree.map(lambda array: array.detach().numpy(), found)
    with on_platform("cpu", float64=True):
        state = None if state is None else jax_attention.ConvolvedState(*map(jnp.asarray, state))
        mask = None if mask is None else jnp.asarray(mask)
        return jax.tree.map(np.asarray, compiled(name)(jnp.asarray(x), mask, state))


class TestLayers:
    @pytest.mark.slow
    @each_mirror
    @each_layer
    def test_two_calls_with_a_state_equal_one_call(self, mirror, name, rng):
        x = rng.standard_normal((2, 6, 6))
        whole = read(mirror, name, x)
        for split in range(1, 6) if mirror == "torch" else (3,):
            first = read(mirror, name, x[:, :split])
            second = read(mirror, name, x[:, split:], state=first.state)
            joined = np.concatenate([first.output, second.output], axis=1)
            assert error(joined, whole.output) <= EXACT
            assert_same(second.state, whole.state)

    @pytest.mark.slow
    @each_mirror
    @each_layer
    def test_single_token_steps_equal_one_call(self, mirror, name, rng):
        x = rng.standard_normal((2, 6, 6))
        whole, state, outputs = read(mirror, name, x), None, []
        for t in range(6):
            output, state, _ = read(mirror, name, x[:, t : t + 1], state=state)
            outputs.append(output)
        assert error(np.concatenate(outputs, axis=1), whole.output) <= EXACT
        assert_same(state, whole.state)

    @pytest.mark.slow
    @each_mirror
    @each_layer
    def test_both_parts_of_a_state_are_read(self, mirror, name, rng):
        x = rng.standard_normal((2, 6, 6))
        memory, inputs = read(mirror, name, x[:, :3]).state
        right = read(mirror, name, x[:, 3:], state=(memory, inputs)).output
        for wrong in ((0 * memory, inputs), (memory, 0 * inputs), (memory, inputs[:, ::-1].copy())):
            assert error(read(mirror, name, x[:, 3:], state=wrong).output, right) > 1e-3

    @each_mirror
    @each_layer
    def test_left_padding_has_no_effect(self, mirror, name, rng):
        x = rng.standard_normal((2, 6, 6))
        mask = np.ones((2, 1, 1, 6), bool)
        mask[..., :3] = False
        padded = read(mirror, name, x, mask)
        alone = read(mirror, name, x[:, 3:])
        assert error(padded.output[:, 3:], alone.output) <= EXACT
        assert_same(padded.state, alone.state)
        assert error(padded.weights[:, :, 3:, 3:], alone.weights) <= EXACT

    @pytest.mark.slow
    @each_mirror
    @each_layer
    def test_right_padding_leaves_the_state_unchanged(self, mirror, name, rng):
        x = rng.standard_normal((2, 6, 6))
        mask = np.arange(6)[None, None, None] < np.array([3, 6])[:, None, None, None]
        padded = read(mirror, name, x, mask)
        alone = read(mirror, name, x[:, :3])
        assert error(padded.state.memory[0], alone.state.memory[0]) <= EXACT
        assert error(padded.output[0, :3], alone.output[0]) <= EXACT

    @each_mirror
    @each_layer
    def test_padding_token_has_weight_only_on_itself(self, mirror, name, rng):
        x = rng.standard_normal((2, 6, 6))
        mask = rng.random((2, 1, 1, 6)) < 0.5
        mask[0], mask[1, ..., :3] = False, [True, False, True]
        output, state, weights = read(mirror, name, x, mask)
        hidden = ~(mask & mask.swapaxes(-1, -2))
        hidden &= (
            ~np.eye(6, dtype=bool) if name == "Mamba2" else True
        )  # its skip connection D remains, applied to a value of 0
        assert not weights[np.broadcast_to(hidden, weights.shape)].any()
        assert not output[~mask[:, 0, 0]].any()
        assert not state.memory[0].any()

    def test_transformers_treats_left_padding_alike(self, rng):
        config = Qwen3NextConfig(
            hidden_size=6,
            num_hidden_layers=1,
            layer_types=["linear_attention"],
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=3,
            linear_value_head_dim=5,
        )
        theirs = randomise(Qwen3NextGatedDeltaNet(config, layer_idx=0), rng)
        part = Part("GatedDeltaNet", {"embed_dim": 6, "chunk_size": 2, **LAYERS["GatedDeltaNet"]})
        ours = build(part, "torch_attention", {})
        ours = transfer(qwen3_next_weights(theirs), ours)
        x = torch.from_numpy(rng.standard_normal((2, 6, 6)).astype(np.float32))
        there = torch.arange(6) >= torch.tensor([[2], [0]])
        expected = theirs(x, attention_mask=there)
        output = ours(x, there[:, None, None]).output
        assert error(output[there].detach().numpy(), expected[there].detach().numpy()) < 1e-5


SHAPES = {
    "DeltaNet": ((3, 4, 5), 39),
    "GatedDeltaNet": ((4, 3, 5), 32),
    "KimiDeltaAttention": ((3, 4, 5), 39),
    "Mamba2": ((4, 5, 3), 32),
}


def layer(m, name, **options):
    return getattr(m, name)(6, **{**LAYERS[name], **options})


def refused(name):
    """Calls that a layer must reject."""
    heads, features = SHAPES[name]

    def reading(m, *shape, **options):
        return partial(layer(m, name), m.nan(*shape), **options)

    def going_on(m, memory, inputs):
        return reading(m, 2, 7, 6, state=m.ConvolvedState(m.nan(*memory), m.nan(*inputs)))

    return [
        Case(
            f"{name}: a sequence of other features",
            lambda m: reading(m, 2, 7, 5),
            ValueError,
            "x must have shape (batch, length, 6), got (2, 7, 5)",
        ),
        Case(
            f"{name}: a mask of numbers",
            lambda m: reading(m, 2, 7, 6, mask=m.ones(2, 1, 1, 7, dtype=np.float32)),
            TypeError,
            "mask must be boolean (True: the query attends to the key), got float32; "
            ".bool() or .astype(bool) converts it, additive values go in bias",
        ),
        Case(
            f"{name}: a mask of pairs",
            lambda m: reading(m, 2, 7, 6, mask=m.ones(7, 7)),
            ValueError,
            "mask must have shape (batch, 1, 1, key) = (2, 1, 1, 7) here, "
            "as padding_mask(tokens, pad_id) gives it, got (7, 7)",
        ),
        Case(
            f"{name}: the memory of another batch",
            lambda m: going_on(m, (1, *heads), (2, 3, features)),
            ValueError,
            f"state.memory must have shape {(2, *heads)}, got {(1, *heads)}",
        ),
        Case(
            f"{name}: a memory with keys and values exchanged",
            lambda m: going_on(m, (2, heads[0], heads[2], heads[1]), (2, 3, features)),
            ValueError,
            f"state.memory must have shape {(2, *heads)}, got {(2, heads[0], heads[2], heads[1])}",
        ),
        Case(
            f"{name}: the last inputs of a wider convolution",
            lambda m: going_on(m, (2, *heads), (2, 4, features)),
            ValueError,
            f"state.inputs must have shape {(2, 3, features)}, got {(2, 4, features)}",
        ),
    ]


def impossible(name):
    """Constructor arguments that a layer must reject."""
    return [
        Case(
            f"{name}: no chunk",
            lambda m: partial(layer, m, name, chunk_size=0),
            ValueError,
            "chunk_size must be at least 1, got 0",
        ),
        Case(
            f"{name}: no convolution",
            lambda m: partial(layer, m, name, conv_width=0),
            ValueError,
            "conv_width must be at least 1, got 0",
        ),
    ]


IMPOSSIBLE = [
    *(case for name in LAYERS for case in impossible(name)),
    *(
        Case(
            f"{name}: features that do not divide into heads",
            lambda m, name=name: partial(getattr(m, name), 7, 3),
            ValueError,
            "embed_dim must be divisible by num_heads, got embed_dim=7 and num_heads=3",
        )
        for name in ("DeltaNet", "GatedDeltaNet", "KimiDeltaAttention")
    ),
    Case(
        "Mamba2: features that do not divide into heads",
        lambda m: partial(m.Mamba2, 7, 3),
        ValueError,
        "inner_dim must be divisible by num_heads, got inner_dim=14 and num_heads=3",
    ),
    Case(
        "GatedDeltaNet: a number of value heads that is no multiple of the key heads",
        lambda m: partial(m.GatedDeltaNet, 6, 2, num_value_heads=3),
        ValueError,
        "num_value_heads must be divisible by num_heads, got num_value_heads=3 and num_heads=2",
    ),
    Case(
        "Mamba2: heads that do not divide into groups",
        lambda m: partial(m.Mamba2, 6, 4, num_groups=3),
        ValueError,
        "num_heads must be divisible by num_groups, got num_heads=4 and num_groups=3",
    ),
    Case(
        "Mamba2: no state",
        lambda m: partial(m.Mamba2, 6, 4, state_dim=0),
        ValueError,
        "state_dim must be at least 1, got 0",
    ),
]


@pytest.mark.usefixtures("as_shipped")
class TestRefusals:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "case", [case for name in LAYERS for case in refused(name)], ids=lambda c: c.name
    )
    def test_bad_input_raises_the_same_error_before_any_arithmetic(self, case):
        assert_refused(case)

    @pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda c: c.name)
    def test_bad_arguments_raise_the_same_error(self, case):
        assert_impossible(case)
