"""Alternative score and weight functions: equalities, differences between implementations, and bad input."""

from functools import partial

import entmax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import jax_attention.scores
import torch_attention.positions
import torch_attention.scores
from attention_bridge.catalogue import Part
from attention_bridge.oracles import scores as oracles
from attention_bridge.parity.comparison import error
from parity_tests.helpers.built import assert_alike, each_mirror, module, numbers, run, weights_for
from parity_tests.helpers.refusals import Case, assert_impossible, assert_refused

SIZES = {"embed_dim": 12, "num_heads": 3}
TRANSFORMS = {
    "sparsemax": (oracles.sparsemax, entmax.sparsemax),
    "entmax15": (oracles.entmax15, entmax.entmax15),
}
each_transform = pytest.mark.parametrize("name", TRANSFORMS)
# The spread and the mean of the random scores.
SCORES = {
    "ordinary": (1.0, 0.0),
    "nearly alike": (1e-3, 0.0),
    "far apart": (50.0, 0.0),
    "far from zero": (1.0, 1000.0),
}


class TestSoftcap:
    @pytest.mark.slow
    @each_mirror
    def test_scores_far_below_the_cap_give_grouped_query_attention(self, mirror, rng):
        x, arguments = numbers(rng, 2, 5, 12), {"embed_dim": 12, "num_heads": 6, "num_kv_heads": 2}
        weights = weights_for(rng, "GroupedQueryAttention", **arguments)
        plain = run(mirror, module(mirror, "GroupedQueryAttention", weights, **arguments), x)
        capped = run(mirror, module(mirror, "SoftcapAttention", weights, softcap=1e4, **arguments), x)
        tight = run(mirror, module(mirror, "SoftcapAttention", weights, softcap=1.0, **arguments), x)
        assert_alike(capped, plain)
        assert error(tight[1], plain[1]) > 0.01

    @pytest.mark.slow
    @each_mirror
    def test_mask_is_applied_after_the_cap(self, mirror, rng):
        """A cap on masked scores would turn -inf into -c: masked keys would have weights."""
        x, mask = numbers(rng, 2, 5, 12), np.tril(np.ones((5, 5), bool))
        made = module(mirror, "SoftcapAttention", softcap=0.5, **SIZES)
        _, weights = run(mirror, made, x, mask=mask)
        assert not weights[..., ~mask].any()

    @each_mirror
    def test_scale_argument_replaces_the_root_of_head_dim(self, mirror, rng):
        x = numbers(rng, 2, 5, 12)
        weights = weights_for(rng, "SoftcapAttention", **SIZES)
        default, same, other = (
            run(mirror, module(mirror, "SoftcapAttention", weights, scale=scale, **SIZES), x)
            for scale in (None, 4**-0.5, 5**-0.5)
        )
        assert_alike(default, same, bound=0)
        assert error(other[1], default[1]) > 1e-3


class TestQKNorm:
    @pytest.mark.slow
    @each_mirror
    def test_both_kinds_are_the_same_with_one_head(self, mirror, rng):
        x, arguments = numbers(rng, 2, 5, 12), {"embed_dim": 12, "num_heads": 1}
        weights = weights_for(rng, "QKNormAttention", **arguments)
        kinds = ("QKNormAttention", "FullWidthQKNormAttention")
        per_head, full = (run(mirror, module(mirror, kind, weights, **arguments), x) for kind in kinds)
        assert_alike(per_head, full)

    @each_mirror
    def test_both_kinds_differ_with_several_heads(self, mirror, rng):
        x = numbers(rng, 2, 5, 12)
        weights = weights_for(rng, "QKNormAttention", **SIZES)
        wide = {**weights, **{f"{n}_norm.weight": np.tile(weights[f"{n}_norm.weight"], 3) for n in "qk"}}
        per_head = run(mirror, module(mirror, "QKNormAttention", weights, **SIZES), x)
        full = run(mirror, module(mirror, "FullWidthQKNormAttention", wide, **SIZES), x)
        assert error(full[1], per_head[1]) > 0.01

    @each_mirror
    def test_a_window_on_both_sides_is_a_mask_of_both_sides(self, mirror, rng):
        x, distance = numbers(rng, 2, 6, 12), np.arange(6)[:, None] - np.arange(6)
        weights = weights_for(rng, "QKNormAttention", **SIZES)
        reference = oracles.qk_norm_attention(
            {name: w.astype(np.float64) for name, w in weights.items()},
            x.astype(np.float64),
            mask=abs(distance) <= 1,
            num_heads=3,
            num_kv_heads=3,
            full_width=False,
        )
        made = module(mirror, "QKNormAttention", weights, window=2, **SIZES)
        assert_alike(run(mirror, made, x), reference)
        fused = run(mirror, lambda x: made(x, need_weights=False)[:1], x)
        assert_alike(fused, reference[:1])

    def test_flax_norm_also_subtracts_the_mean(self, rng):
        """`normalize_qk` of `nnx.MultiHeadAttention` is a third kind: it is equal only for vectors of mean zero."""
        theirs = nnx.MultiHeadAttention(3, 12, decode=False, normalize_qk=True, rngs=nnx.Rngs(0)).query_ln
        ours = jax_attention.QKNormAttention(**SIZES, rngs=nnx.Rngs(0)).q_norm
        query = jnp.asarray(numbers(rng, 2, 5, 3, 4))
        assert error(np.asarray(theirs(query)), np.asarray(ours(query))) > 0.1
        centred = query - query.mean(-1, keepdims=True)
        assert error(np.asarray(theirs(centred)), np.asarray(ours(centred))) < 1e-5

    @each_mirror
    @pytest.mark.parametrize("kind", ["QKNormAttention", "FullWidthQKNormAttention", "CosineAttention"])
    def test_weights_do_not_depend_on_the_magnitude_of_the_input(self, kind, mirror, rng):
        x = numbers(rng, 2, 5, 12)
        weights = weights_for(rng, kind, bias=False, **SIZES)
        made = module(mirror, kind, weights, bias=False, **SIZES)
        once, much = run(mirror, made, x)[1], run(mirror, made, 1000.0 * x)[1]
        assert error(much, once) < 1e-5
        plain = module(
            mirror,
            "MultiHeadSelfAttention",
            {k: v for k, v in weights.items() if "proj" in k},
            bias=False,
            **SIZES,
        )
        assert error(run(mirror, plain, 1000.0 * x)[1], run(mirror, plain, x)[1]) > 0.1


class TestCosine:
    @pytest.mark.slow
    @each_mirror
    def test_factor_is_clipped_and_has_no_gradient_beyond_its_bound(self, mirror, rng):
        x = numbers(rng, 2, 5, 12)
        weights = weights_for(rng, "CosineAttention", **SIZES)
        at, beyond = (
            {**weights, "logit_scale": np.full(3, value, np.float32)} for value in (np.log(100.0), 7.0)
        )
        ours = module(mirror, "CosineAttention", beyond, **SIZES)
        assert_alike(
            run(mirror, ours, x), run(mirror, module(mirror, "CosineAttention", at, **SIZES), x), bound=1e-5
        )
        if mirror.name == "torch":
            ours(mirror.array(x)).output.sum().backward()
            assert not ours.logit_scale.grad.any()
        else:
            graphdef, state = nnx.split(ours)
            gradient = jax.grad(lambda state: nnx.merge(graphdef, state)(jnp.asarray(x)).output.sum())(state)
            assert not gradient["logit_scale"][...].any()

    @pytest.mark.slow
    @each_mirror
    def test_zero_vector_has_finite_gradients(self, mirror):
        """The norm has no gradient at zero: dividing by it, or by its square root, gives NaN there."""
        zeros = np.zeros((2, 4), np.float32)
        if mirror.name == "torch":
            x = torch.from_numpy(zeros).requires_grad_()
            torch_attention.scores.cosine.unit_vectors(x).sum().backward()
            gradient = x.grad.numpy()
        else:
            gradient = jax.grad(lambda x: jax_attention.scores.cosine.unit_vectors(x).sum())(
                jnp.asarray(zeros)
            )
        assert np.isfinite(gradient).all()


class TestSigmoid:
    @each_mirror
    def test_weights_of_equal_scores_are_about_one_over_n_or_a_half_without_shift(self, mirror):
        zeros = mirror.array(np.zeros((1, 1, 2, 50), np.float32))
        shifted = np.asarray(mirror.package.scores.sigmoid_weights(zeros))
        assert np.allclose(shifted, 1 / 51, rtol=1e-6)  # sigma(-log n) = 1 / (n + 1)
        assert np.all(np.asarray(mirror.package.scores.sigmoid_weights(zeros, shift=0.0)) == 0.5)

    @pytest.mark.slow
    @each_mirror
    def test_masked_key_does_not_change_the_other_weights(self, mirror, rng):
        x = numbers(rng, 2, 5, 12)
        mask = rng.random((2, 3, 5, 5)) < 0.6
        mask[:, :, 0] = True  # a key masked for every query is not counted
        made = module(mirror, "SigmoidAttention", **SIZES)
        everything, some = run(mirror, made, x)[1], run(mirror, made, x, mask=mask)[1]
        assert np.array_equal(np.where(mask, everything, 0.0), some)
        softmax = module(mirror, "MultiHeadSelfAttention", **SIZES)
        everything, some = run(mirror, softmax, x)[1], run(mirror, softmax, x, mask=mask)[1]
        assert not np.allclose(np.where(mask, everything, 0.0), some)


class TestSparse:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", SCORES)
    @each_transform
    @each_mirror
    def test_weights_and_gradients_are_those_of_the_entmax_package(self, mirror, name, kind, rng):
        spread, offset = SCORES[kind]
        scores = spread * rng.standard_normal((4, 3, 5, 9)) + offset
        cotangent = rng.standard_normal(scores.shape)
        theirs = torch.from_numpy(scores).requires_grad_()
        expected = TRANSFORMS[name][1](theirs, dim=-1)
        expected.backward(torch.from_numpy(cotangent))
        weights, gradient = with_gradient(mirror, name, scores, cotangent)
        assert error(weights, expected.detach().numpy()) < 1e-12
        assert error(gradient, theirs.grad.numpy()) < 1e-12
        if kind == "far apart":  # in most rows all weights but one are zero
            assert (weights == 0).mean() > 0.5

    @pytest.mark.slow
    @each_transform
    @each_mirror
    def test_weights_equal_the_oracle_in_float32_and_sum_to_one(self, mirror, name, rng):
        scores = numbers(rng, 50, 3, 8)
        weights = np.asarray(getattr(mirror.package.scores, name)(mirror.array(scores)))
        assert weights.dtype == np.float32
        assert np.allclose(weights.sum(-1), 1.0, atol=1e-6)
        assert weights.min() >= 0.0
        for row, found in zip(scores.reshape(-1, 8), weights.reshape(-1, 8), strict=True):
            assert error(found, TRANSFORMS[name][0](row.astype(np.float64))) < 1e-6

    @pytest.mark.slow
    @each_transform
    @each_mirror
    def test_masked_keys_have_zero_weight_and_masked_rows_zero_gradients(self, mirror, name, rng):
        scores, mask = rng.standard_normal((2, 3, 5, 9)), rng.random((2, 3, 5, 9)) < 0.6
        mask[0, 1, 2] = False
        weights, gradient = with_gradient(mirror, name, scores, rng.standard_normal(scores.shape), mask)
        assert not weights[~mask].any()
        assert not gradient[~mask].any()
        assert np.isfinite(gradient).all()
        for row, seen, found in zip(
            scores.reshape(-1, 9), mask.reshape(-1, 9), weights.reshape(-1, 9), strict=True
        ):
            if seen.any():
                assert error(found[seen], TRANSFORMS[name][0](row[seen])) < 1e-12

    @pytest.mark.slow
    @each_transform
    @each_mirror
    def test_equal_scores_have_equal_weights(self, mirror, name):
        weights = np.asarray(
            getattr(mirror.package.scores, name)(mirror.array(np.full((1, 4), 3.0, np.float32)))
        )
        assert np.allclose(weights, 0.25, atol=1e-7)

    @pytest.mark.slow
    @each_transform
    @each_mirror
    def test_huge_scores_give_finite_weights_and_gradients(self, mirror, name):
        """A huge fill value for masked scores, squared or summed, would become infinite and then NaN."""
        scores = np.array([[1e30, -1e30, 0.0, 1e30]], np.float32)
        mask = np.array([[True, True, True, False]])
        weights, gradient = with_gradient(mirror, name, scores, np.ones_like(scores), mask)
        assert np.array_equal(weights, [[1.0, 0.0, 0.0, 0.0]])
        assert np.isfinite(gradient).all()

    @pytest.mark.slow
    @each_mirror
    def test_entmax_has_more_nonzero_weights_than_sparsemax_and_fewer_than_softmax(self, mirror, rng):
        scores = mirror.array(2 * numbers(rng, 40, 12))
        sizes = [
            int((np.asarray(getattr(mirror.package.scores, name)(scores)) > 0).sum())
            for name in ("sparsemax", "entmax15")
        ]
        assert sizes[0] < sizes[1] < 40 * 12

    def test_wrong_threshold_is_detected(self, rng):
        """A negative control: halved scores belong to the other definition of 1.5-entmax."""
        row = rng.standard_normal(9)
        wrong = torch_attention.scores.entmax15(torch.from_numpy(row[None] / 2)).numpy()
        assert error(wrong[0], oracles.entmax15(row)) > 0.01


def with_gradient(mirror, name, scores, cotangent, mask=None):
    """Weights, and the gradient with respect to the scores, in numpy."""
    transform = getattr(mirror.package.scores, name)
    if mirror.name == "torch":
        x = torch.from_numpy(scores).requires_grad_()
        weights = transform(x, None if mask is None else torch.from_numpy(mask))
        weights.backward(torch.from_numpy(cotangent))
        return weights.detach().numpy(), x.grad.numpy()
    with jax.enable_x64(scores.dtype == np.float64):
        seen = None if mask is None else jnp.asarray(mask)
        weights, back = jax.vjp(lambda x: transform(x, seen), jnp.asarray(scores))
        return np.asarray(weights), np.asarray(back(jnp.asarray(cotangent, weights.dtype))[0])


class TestTalkingHeads:
    @each_mirror
    def test_identity_maps_give_multi_head_attention(self, mirror, rng):
        x, mask = numbers(rng, 2, 5, 12), rng.random((2, 5, 5)) < 0.7
        plain = weights_for(rng, "MultiHeadSelfAttention", **SIZES)
        maps = {"pre_map": np.eye(3, dtype=np.float32), "post_map": np.eye(3, dtype=np.float32)}
        silent = module(mirror, "TalkingHeadsAttention", {**plain, **maps}, **SIZES)
        expected = run(mirror, module(mirror, "MultiHeadSelfAttention", plain, **SIZES), x, mask=mask)
        assert_alike(run(mirror, silent, x, mask=mask), expected)

    @each_mirror
    def test_map_differs_from_its_transpose(self, mirror, rng):
        x, weights = numbers(rng, 2, 5, 12), weights_for(rng, "TalkingHeadsAttention", **SIZES)
        right = run(mirror, module(mirror, "TalkingHeadsAttention", weights, **SIZES), x)
        for name in ("pre_map", "post_map"):
            turned = {**weights, name: np.ascontiguousarray(weights[name].T)}
            assert (
                error(
                    run(mirror, module(mirror, "TalkingHeadsAttention", turned, **SIZES), x)[0],
                    right[0],
                )
                > 0.01
            )

    @each_mirror
    def test_position_bias_is_added_between_the_maps(self, mirror, rng):
        """ALiBi added before the first map would be mixed by it."""
        x = numbers(rng, 2, 5, 12)
        weights = weights_for(rng, "TalkingHeadsAttention", **SIZES)
        weights["pre_map"] = np.zeros((3, 3), np.float32)  # all scores become zero: only the bias remains
        weights["post_map"] = np.eye(3, dtype=np.float32)
        alibi = Part("ALiBi", {"num_heads": 3})
        _, found = run(mirror, module(mirror, "TalkingHeadsAttention", weights, position=alibi, **SIZES), x)
        slopes = np.array(torch_attention.positions.alibi_slopes(3))[:, None, None]
        exponentials = np.exp(-slopes * np.abs(np.arange(5)[:, None] - np.arange(5)))
        assert error(found[0], exponentials / exponentials.sum(-1, keepdims=True)) < 1e-6


QUARTER = "embed_dim must be divisible by num_heads, got embed_dim=6 and num_heads=4"
NORMALISED = ("QKNormAttention", "FullWidthQKNormAttention")
ALL = (
    "SoftcapAttention",
    *NORMALISED,
    "CosineAttention",
    "SigmoidAttention",
    "SparsemaxAttention",
    "Entmax15Attention",
    "TalkingHeadsAttention",
)
IMPOSSIBLE = [
    Case(
        "QKNormAttention, keys of another layer, with norms after the positions",
        lambda m: lambda: m.QKNormAttention(6, 3, shares_kv=True, after_position=True),
        ValueError,
        "after_position must be False with shares_kv=True, whose keys have no norm, got True",
    ),
    *(
        Case(
            f"{name}, heads that do not divide",
            lambda m, n=name: lambda: getattr(m, n)(6, 4),
            ValueError,
            QUARTER,
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
        for name in ("SoftcapAttention", *NORMALISED)
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
    Case(
        "a cap of zero",
        lambda m: lambda: m.SoftcapAttention(6, 3, softcap=0.0),
        ValueError,
        "softcap must be above 0, got 0.0",
    ),
    Case(
        "a cap that is not a number",
        lambda m: lambda: m.SoftcapAttention(6, 3, softcap=float("nan")),
        ValueError,
        "softcap must be finite, got nan",
    ),
    Case(
        "a bound of zero on the factor",
        lambda m: lambda: m.CosineAttention(6, 3, max_scale=0.0),
        ValueError,
        "max_scale must be above 0, got 0.0",
    ),
]
MASK = "mask must have shape (query, key) = (5, 5), (batch, query, key) = (2, 5, 5) or "
REFUSED = [
    *(
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
    ),
    Case(
        "talking heads with a mask a head",
        lambda m: partial(m.TalkingHeadsAttention(6, 3), m.nan(2, 5, 6), m.ones(2, 3, 5, 5)),
        ValueError,
        MASK + "(batch|1, heads|1, query|1, key|1) = (2, 1, 5, 5), got (2, 3, 5, 5)",
    ),
    Case(
        "another number of features",
        lambda m: partial(m.SoftcapAttention(6, 3), m.nan(2, 5, 7)),
        ValueError,
        "x must have shape (batch, length, 6), got (2, 5, 7)",
    ),
]


@pytest.mark.usefixtures("as_shipped")
class TestBadInput:
    @pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
    def test_bad_input_raises_the_same_error_before_any_arithmetic(self, case):
        assert_refused(case)

    @pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.name)
    def test_bad_arguments_raise_the_same_error(self, case):
        assert_impossible(case)
