"""Gated, differential and forgetting attention: special cases that equal other mechanisms, and bad input."""

from functools import partial

import numpy as np
import pytest

from attention_bridge.catalogue import Part
from attention_bridge.oracles import gates as oracles
from attention_bridge.parity.comparison import error
from parity_tests.helpers.built import assert_alike, each_mirror, module, numbers, run, weights_for
from parity_tests.helpers.refusals import Case, assert_impossible, assert_refused

SIZES = {"embed_dim": 12, "num_heads": 3}
GROUPED = {"embed_dim": 12, "num_heads": 6, "num_kv_heads": 2}


class TestGated:
    @pytest.mark.slow
    @pytest.mark.parametrize(("kind", "gates"), [("GatedAttention", 12), ("HeadwiseGatedAttention", 6)])
    @each_mirror
    def test_half_open_gates_halve_the_head_outputs(self, mirror, kind, gates, rng):
        x, plain = numbers(rng, 2, 5, 12), weights_for(rng, "GroupedQueryAttention", **GROUPED)
        plain["out_proj.bias"] = np.zeros(12, np.float32)
        closed = {"gate_proj.weight": np.zeros((gates, 12), np.float32)}
        for bias, part in ((0.0, 0.5), (-100.0, 0.0), (100.0, 1.0)):
            weights = {**plain, **closed, "gate_proj.bias": np.full(gates, bias, np.float32)}
            output, attention = run(mirror, module(mirror, kind, weights, **GROUPED), x)
            full, expected = run(mirror, module(mirror, "GroupedQueryAttention", plain, **GROUPED), x)
            assert_alike([output, attention], [part * full, expected])

    @each_mirror
    def test_gate_per_head_is_a_repeated_gate_per_feature(self, mirror, rng):
        x, weights = numbers(rng, 2, 5, 12), weights_for(rng, "HeadwiseGatedAttention", **GROUPED)
        repeated = {
            **weights,
            **{name: weights[name].repeat(2, axis=0) for name in ("gate_proj.weight", "gate_proj.bias")},
        }
        headwise = run(mirror, module(mirror, "HeadwiseGatedAttention", weights, **GROUPED), x)
        assert_alike(run(mirror, module(mirror, "GatedAttention", repeated, **GROUPED), x), headwise)
        tiled = {
            **weights,
            **{name: np.concatenate([weights[name]] * 2) for name in ("gate_proj.weight", "gate_proj.bias")},
        }
        wrong = run(mirror, module(mirror, "GatedAttention", tiled, **GROUPED), x)
        assert error(wrong[0], headwise[0]) > 0.01

    @pytest.mark.slow
    @each_mirror
    def test_norms_as_arguments_make_it_attention_with_qk_norm(self, mirror, rng):
        x, weights = numbers(rng, 2, 5, 12), weights_for(rng, "QKNormAttention", **GROUPED)
        gate = {
            "gate_proj.weight": np.zeros((12, 12), np.float32),
            "gate_proj.bias": np.full(12, 100.0, np.float32),
        }
        norm = Part("rms_norm", {"dim": 2})
        gated = module(mirror, "GatedAttention", {**weights, **gate}, q_norm=norm, k_norm=norm, **GROUPED)
        expected = run(mirror, module(mirror, "QKNormAttention", weights, **GROUPED), x)
        assert_alike(run(mirror, gated, x), expected)


class TestDifferential:
    @pytest.mark.slow
    @each_mirror
    def test_pairs_of_heads_are_adjacent_as_in_the_paper(self, mirror, rng):
        """Another order, in which head h is subtracted from head h - H, gives another result."""
        x, weights = numbers(rng, 2, 5, 12), weights_for(rng, "DifferentialAttention", **SIZES)
        ours = run(mirror, module(mirror, "DifferentialAttention", weights, lambda_init=0.6, **SIZES), x)
        exact = {name: y.astype(np.float64) for name, y in weights.items()}
        expected = oracles.differential_attention(exact, x.astype(np.float64), num_heads=3, lambda_init=0.6)
        assert_alike(ours, expected, bound=5e-6)
        apart = {
            name: y.reshape(3, 2, 2, -1).swapaxes(0, 1).reshape(y.shape) if name[:2] in ("q_", "k_") else y
            for name, y in exact.items()
        }
        other = oracles.differential_attention(apart, x.astype(np.float64), num_heads=3, lambda_init=0.6)
        assert error(ours[1], other[1]) > 0.01

    @each_mirror
    def test_weights_sum_to_one_minus_lambda(self, mirror, rng):
        x, weights = numbers(rng, 2, 5, 12), weights_for(rng, "DifferentialAttention", **SIZES)
        made = module(mirror, "DifferentialAttention", weights, **SIZES)
        assert np.allclose(run(mirror, made, x)[1].sum(-1), 1 - made.factor().tolist(), atol=1e-6)

    @each_mirror
    def test_initial_lambda_is_lambda_init_for_equal_vectors(self, mirror, rng):
        weights = weights_for(rng, "DifferentialAttention", **SIZES)
        weights |= {"lambda_q2": weights["lambda_q1"], "lambda_k2": weights["lambda_k1"]}
        made = module(mirror, "DifferentialAttention", weights, lambda_init=0.35, **SIZES)
        assert abs(made.factor().tolist() - 0.35) < 1e-6

    @each_mirror
    def test_lambda_init_grows_with_depth_from_0_2_to_0_8(self, mirror):
        at = mirror.package.gates.lambda_init_at
        assert at(0) == pytest.approx(0.2)
        assert at(1) == pytest.approx(0.8 - 0.6 * np.exp(-0.3))
        assert at(100) == pytest.approx(0.8)

    @pytest.mark.slow
    @each_mirror
    def test_position_applies_to_the_heads_of_each_softmax(self, mirror, rng):
        """ALiBi has one slope per difference: both softmaxes of a pair have the same slope."""
        x, weights = numbers(rng, 2, 5, 12), weights_for(rng, "DifferentialAttention", **SIZES)
        weights |= {name: np.zeros_like(y) for name, y in weights.items() if name[:2] in ("q_", "k_")}
        alibi = Part("ALiBi", {"num_heads": 3})
        made = module(mirror, "DifferentialAttention", weights, position=alibi, is_causal=True, **SIZES)
        plain = module(
            mirror,
            "CausalSelfAttention",
            {k: y for k, y in weights.items() if "proj" in k},
            position=alibi,
            **SIZES,
        )
        expected = (1 - made.factor().tolist()) * run(mirror, plain, x)[1]
        assert error(run(mirror, made, x)[1], expected) < 2e-6


class TestForgetting:
    @pytest.mark.slow
    @each_mirror
    def test_open_gates_make_it_causal_self_attention(self, mirror, rng):
        x, plain = numbers(rng, 2, 5, 12), weights_for(rng, "CausalSelfAttention", **SIZES)
        gate = {
            "forget_proj.weight": np.zeros((3, 12), np.float32),
            "forget_proj.bias": np.full(3, 100.0, np.float32),
        }
        open_gates = module(mirror, "ForgettingAttention", {**plain, **gate}, **SIZES)
        expected = run(mirror, module(mirror, "CausalSelfAttention", plain, **SIZES), x)
        assert_alike(run(mirror, open_gates, x), expected)

    @each_mirror
    def test_constant_gates_make_it_alibi(self, mirror, rng):
        """The slope of a head is -log f = log(1 + exp(-b))."""
        x, plain = numbers(rng, 2, 5, 12), weights_for(rng, "CausalSelfAttention", **SIZES)
        slopes = np.array([0.0625, 0.00390625, 0.25])  # ALiBi's slopes for 3 heads
        bias = -np.log(np.expm1(slopes))
        gate = {
            "forget_proj.weight": np.zeros((3, 12), np.float32),
            "forget_proj.bias": bias.astype(np.float32),
        }
        forgetting = module(mirror, "ForgettingAttention", {**plain, **gate}, **SIZES)
        alibi = Part("ALiBi", {"num_heads": 3})
        expected = run(mirror, module(mirror, "CausalSelfAttention", plain, position=alibi, **SIZES), x)
        assert_alike(run(mirror, forgetting, x), expected, bound=5e-6)

    @each_mirror
    def test_closed_gate_hides_all_earlier_keys(self, mirror):
        log_forget = np.full((1, 1, 5, 1), -0.1, np.float32)
        log_forget[0, 0, 3] = -100.0
        bias = np.asarray(mirror.package.gates.forgetting_bias(mirror.array(log_forget), 5))[0, 0]
        assert np.all(bias[3:, :3] < -99)
        assert np.all(bias[:3, :3][np.tril_indices(3)] > -1)
        assert np.all(bias[3:, 3:][np.tril_indices(2)] > -1)
        assert not np.diagonal(bias).any()  # a query's gate does not apply to its own key

    @each_mirror
    def test_gate_applied_to_its_own_key_is_detected(self, mirror, rng):
        """A negative control: a sum from j to i differs from the sum from j + 1 to i."""
        log_forget = -rng.random((1, 1, 5, 1)).astype(np.float32)
        bias = np.asarray(mirror.package.gates.forgetting_bias(mirror.array(log_forget), 5))[0, 0]
        gates = log_forget[0, 0, :, 0]
        right = np.array([[gates[j + 1 : i + 1].sum() for j in range(5)] for i in range(5)])
        wrong = np.array([[gates[j : i + 1].sum() for j in range(5)] for i in range(5)])
        past = np.tril_indices(5)
        assert error(bias[past], right[past]) < 1e-6
        assert error(bias[past], wrong[past]) > 0.1


ALL = ("GatedAttention", "HeadwiseGatedAttention", "DifferentialAttention", "ForgettingAttention")
IMPOSSIBLE = [
    *(
        Case(
            f"{name}, heads that do not divide",
            lambda m, n=name: lambda: getattr(m, n)(6, 4),
            ValueError,
            "embed_dim must be divisible by num_heads, got embed_dim=6 and num_heads=4",
        )
        for name in ALL
    ),
    *(
        Case(
            f"{name}, a rate of 1",
            lambda m, n=name: lambda: getattr(m, n)(6, 3, dropout=1.0),
            ValueError,
            "dropout must be at least 0 and below 1, got 1.0",
        )
        for name in ALL
    ),
    *(
        Case(
            f"{name}, groups that do not divide",
            lambda m, n=name: lambda: getattr(m, n)(6, 3, 2),
            ValueError,
            "num_heads must be divisible by num_kv_heads, got num_heads=3 and num_kv_heads=2",
        )
        for name in ALL[:2]
    ),
    Case(
        "a head that has no two halves",
        lambda m: lambda: m.DifferentialAttention(9, 3),
        ValueError,
        "value_dim must be divisible by pair, got value_dim=3 and pair=2",
    ),
]
REFUSED = [
    Case(
        f"{name}, {fault}",
        lambda m, n=name, given=given: partial(getattr(m, n)(6, 3), m.nan(2, 5, 6), **given(m)),
        exception,
        text,
    )
    for name in ALL
    for fault, given, exception, text in (
        (
            "a mask that is not boolean",
            lambda m: {"mask": m.ones(5, 5, dtype=np.float32)},
            TypeError,
            "mask must be boolean (True: the query attends to the key), got float32; "
            ".bool() or .astype(bool) converts it, additive values go in bias",
        ),
        (
            "a mask of another batch",
            lambda m: {"mask": m.ones(3, 5, 5)},
            ValueError,
            "mask must have shape (query, key) = (5, 5), (batch, query, key) = (2, 5, 5) or "
            "(batch|1, heads|1, query|1, key|1) = (2, 3, 5, 5), got (3, 5, 5)",
        ),
        (
            "a dropout mask of one head",
            lambda m: {"dropout_keep": m.ones(2, 1, 5, 5)},
            ValueError,
            "dropout_keep must have shape (2, 3, 5, 5), got (2, 1, 5, 5)",
        ),
        (
            "positions without a scheme",
            lambda m: {"positions": m.ones(5, dtype=np.int32)},
            ValueError,
            "positions need a position scheme that reads them, got position=None",
        ),
    )
]


@pytest.mark.usefixtures("as_shipped")
class TestBadInput:
    @pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
    def test_bad_input_raises_the_same_error_before_any_arithmetic(self, case):
        assert_refused(case)

    @pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.name)
    def test_bad_arguments_raise_the_same_error(self, case):
        assert_impossible(case)
