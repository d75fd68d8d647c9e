"""Attention with learned latents, seeds, probes and slots, and over sets: symmetries, special cases and bad input."""

from functools import partial

import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge.catalogue import Part
from attention_bridge.oracles import latents as oracles
from attention_bridge.oracles.common import scope
from attention_bridge.parity.comparison import error
from attention_bridge.parity.instances import build, jax_with
from attention_bridge.parity.run import named_outputs, on_platform, run_jax, run_torch
from attention_bridge.weights import transfer
from parity_tests.helpers.built import collected
from parity_tests.helpers.refusals import MIRRORS, Case, assert_impossible, assert_refused

CLOSE = 1e-12  # of float64
SIZES = {"embed_dim": 12, "num_heads": 4}
INDUCED = {**SIZES, "num_inducing": 5}
SEEDS = {**SIZES, "num_seeds": 3}
PERCEIVER = {"num_latents": 3, "latent_dim": 8, "input_dim": 10, "num_heads": 2}
PROBES = {**SIZES, "ffn_dim": 9, "num_probes": 3}
SLOTS = {"input_dim": 10, "slot_dim": 6, "ffn_dim": 9}


def weights_for(rng, name, **arguments):
    """Random float64 weights for a class, by their PyTorch names."""
    state = build(Part(name, arguments), "torch_attention", {"device": "meta"}).state_dict()
    return {key: 0.5 * rng.standard_normal(x.shape) for key, x in state.items()}


@collected
def runs(name, weights, arguments, **inputs):
    """Runs of the module of each mirror on float64 inputs, forward and backward."""
    with on_platform("cpu", float64=True):
        part = Part(name, arguments)
        yield run_torch(
            transfer(dict(weights), build(part, "torch_attention", {"dtype": torch.float64}).eval()), inputs
        )
        yield run_jax(jax_with(part, dict(weights), {"param_dtype": "float64"}), inputs)


@collected
def results(name, weights, arguments, **inputs):
    """The outputs of each mirror by field of the result; JAX is not compiled, which is faster for one call."""
    part = Part(name, arguments)
    with on_platform("cpu", float64=True):
        for mirror, options in (("torch", {"dtype": torch.float64}), ("jax", {"param_dtype": "float64"})):
            module = transfer(
                dict(weights), build(part, f"{mirror}_attention", {"rngs": nnx.Rngs(0), **options})
            )
            module.eval()
            arrays = {key: MIRRORS[mirror].array(x) for key, x in inputs.items()}
            yield {key: np.asarray(x.tolist()) for key, x in named_outputs(module(**arrays)).items()}


def assert_close(ours, theirs):
    assert error(ours, np.asarray(theirs)) < CLOSE


class TestOrder:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "arguments"), [("SetAttentionBlock", SIZES), ("InducedSetAttentionBlock", INDUCED)]
    )
    def test_set_blocks_are_permutation_equivariant(self, name, arguments, rng):
        weights, x = weights_for(rng, name, **arguments), rng.standard_normal((2, 7, 12))
        order = rng.permutation(7)
        before, after = (results(name, weights, arguments, x=y) for y in (x, x[:, order]))
        for one, other in zip(before, after, strict=True):
            assert_close(other["output"], one["output"][:, order])
            assert error(other["output"], one["output"]) > 0.01
            rows = one["weights"][:, :, order]
            assert_close(other["weights"], rows[..., order] if name == "SetAttentionBlock" else rows)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "arguments", "dim"),
        [
            ("PoolingByAttention", SEEDS, 12),
            ("AttentionPooling", PROBES, 12),
            ("PerceiverAttention", PERCEIVER, 10),
            ("SlotAttention", SLOTS, 10),
        ],
    )
    def test_pooled_outputs_are_permutation_invariant(self, name, arguments, dim, rng):
        weights, x = weights_for(rng, name, **arguments), rng.standard_normal((2, 7, dim))
        given = {"noise": rng.standard_normal((2, 3, 6))} if name == "SlotAttention" else {}
        order = rng.permutation(7)
        before, after = (results(name, weights, arguments, x=y, **given) for y in (x, x[:, order]))
        for one, other in zip(before, after, strict=True):
            assert_close(other["output"], one["output"])
            assert_close(other["weights"], one["weights"][..., order])

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "arguments", "dim"),
        [
            ("InducedSetAttentionBlock", INDUCED, 12),
            ("PoolingByAttention", SEEDS, 12),
            ("AttentionPooling", PROBES, 12),
            ("PerceiverAttention", PERCEIVER, 10),
            ("SlotAttention", SLOTS, 10),
        ],
    )
    def test_masked_elements_have_no_influence(self, name, arguments, dim, rng):
        weights, x = weights_for(rng, name, **arguments), rng.standard_normal((2, 7, dim))
        given = {"noise": rng.standard_normal((2, 3, 6))} if name == "SlotAttention" else {}
        mask = np.zeros((2, 1, 1, 7), bool)
        mask[..., :4] = True
        masked = results(name, weights, arguments, x=x, mask=mask, **given)
        for one, other in zip(masked, results(name, weights, arguments, x=x[:, :4], **given), strict=True):
            assert_close(one["output"][:, : other["output"].shape[1]], other["output"])

    @pytest.mark.slow
    def test_permuted_noise_permutes_the_slots(self, rng):
        weights, x = weights_for(rng, "SlotAttention", **SLOTS), rng.standard_normal((2, 7, 10))
        noise, order = rng.standard_normal((2, 4, 6)), np.array([2, 0, 3, 1])
        before, after = (
            results("SlotAttention", weights, SLOTS, x=x, noise=n) for n in (noise, noise[:, order])
        )
        for one, other in zip(before, after, strict=True):
            for name in ("output", "weights", "assignments"):
                assert_close(other[name], one[name][:, order])


class TestSets:
    def test_scores_are_divided_by_the_root_of_embed_dim(self, rng):
        """Queries multiplied by the root of the number of heads give the usual scale 1/sqrt(head_dim)."""
        weights = weights_for(rng, "MultiheadAttentionBlock", **SIZES)
        given = {"query": rng.standard_normal((2, 5, 12)), "memory": rng.standard_normal((2, 7, 12))}
        plain = {name: weights[name] for name in weights if name.split("_")[0] in "qkvout"}
        expected = results(
            "MultiHeadCrossAttention", plain, {"query_dim": 12, "key_dim": 12, **SIZES}, **given
        )
        larger = {name: 2 * w if name.startswith("q_proj") else w for name, w in weights.items()}
        found = results("MultiheadAttentionBlock", larger, SIZES, **given)
        unscaled = results("MultiheadAttentionBlock", weights, SIZES, **given)
        by_head = results("MultiheadAttentionBlock", weights, {**SIZES, "scale": 3**-0.5}, **given)
        for multi_head, ours, differs, same in zip(expected, found, unscaled, by_head, strict=True):
            assert_close(ours["weights"], multi_head["weights"])
            assert_close(same["weights"], multi_head["weights"])
            assert error(differs["weights"], multi_head["weights"]) > 0.01

    def test_block_without_norms_is_residuals_only(self, rng):
        arguments = {**SIZES, "norm": False}
        weights = weights_for(rng, "MultiheadAttentionBlock", **arguments)
        weights |= {f"out_proj.{name}": 0.0 * weights[f"out_proj.{name}"] for name in ("weight", "bias")}
        query, memory = rng.standard_normal((2, 5, 12)), rng.standard_normal((2, 7, 12))
        mapped = query @ weights["ffn_proj.weight"].T + weights["ffn_proj.bias"]
        for found in results("MultiheadAttentionBlock", weights, arguments, query=query, memory=memory):
            assert_close(found["output"], query + np.maximum(mapped, 0.0))

    def test_induced_block_is_two_multihead_blocks(self, rng):
        weights, x = weights_for(rng, "InducedSetAttentionBlock", **INDUCED), rng.standard_normal((2, 7, 12))
        points = np.stack([weights["inducing_points"]] * 2)
        first, second = scope(weights, "inducing_block"), scope(weights, "block")
        for found, summary in zip(
            results("InducedSetAttentionBlock", weights, INDUCED, x=x),
            results("MultiheadAttentionBlock", first, SIZES, query=points, memory=x),
            strict=True,
        ):
            assert_close(found["inducing_weights"], summary["weights"])
            given = {"query": x, "memory": summary["output"]}
            for output in results("MultiheadAttentionBlock", second, SIZES, **given):
                assert_close(found["output"], output["output"])
                assert_close(found["weights"], output["weights"])

    def test_dropout_masks_of_both_blocks_replace_sampled_ones(self, rng):
        arguments = {**INDUCED, "dropout": 0.5}
        weights, x = weights_for(rng, "InducedSetAttentionBlock", **INDUCED), rng.standard_normal((2, 7, 12))
        down, up = rng.random((2, 4, 5, 7)) < 0.5, rng.random((2, 4, 7, 5)) < 0.5
        kept = partial(oracles.multihead_attention_block, num_heads=4, dropout_rate=0.5)
        points = np.stack([weights["inducing_points"]] * 2)
        summary, _ = kept(scope(weights, "inducing_block"), points, x, dropout_keep=down)
        expected, _ = kept(scope(weights, "block"), x, summary, dropout_keep=up)
        part = Part("InducedSetAttentionBlock", arguments)
        with on_platform("cpu", float64=True):
            for name, options in (("torch", {"dtype": torch.float64}), ("jax", {"param_dtype": "float64"})):
                mirror = MIRRORS[name]
                module = build(part, f"{name}_attention", {"rngs": nnx.Rngs(0), **options})
                module = transfer(dict(weights), module)
                keep = mirror.InducedKeep(weights=mirror.array(up), inducing_weights=mirror.array(down))
                found = module(mirror.array(x), dropout_keep=keep).output
                assert_close(np.asarray(found.tolist()), expected)


class TestPooling:
    def test_pooling_without_feed_forward_is_cross_attention_from_the_probes(self, rng):
        arguments = {**SIZES, "num_probes": 3}
        weights, x = weights_for(rng, "AttentionPooling", **arguments), rng.standard_normal((2, 7, 12))
        assert not any(name.startswith("ffn") for name in weights)
        cross = {"query_dim": 12, "key_dim": 12, **SIZES}
        probes = np.stack([weights["probes"]] * 2)
        found = results("AttentionPooling", weights, arguments, x=x)
        expected = results(
            "MultiHeadCrossAttention", scope(weights, "attention"), cross, query=probes, memory=x
        )
        for ours, theirs in zip(found, expected, strict=True):
            assert_close(ours["output"], theirs["output"])
            assert_close(ours["weights"], theirs["weights"])


class TestPerceiver:
    @pytest.mark.slow
    def test_latents_may_be_arguments_and_more_than_the_learned_ones(self, rng):
        weights, x = weights_for(rng, "PerceiverAttention", **PERCEIVER), rng.standard_normal((2, 7, 10))
        learned = np.stack([weights["latents"]] * 2)
        more = np.concatenate([learned, rng.standard_normal((2, 2, 8))], axis=1)
        own, given, five = (
            results("PerceiverAttention", weights, PERCEIVER, x=x, **latents)
            for latents in ({}, {"latents": learned}, {"latents": more})
        )
        for expected, same, first in zip(own, given, five, strict=True):
            assert_close(same["output"], expected["output"])
            assert_close(first["output"][:, :3], expected["output"])
            assert first["weights"].shape == (2, 2, 5, 7)

    def test_latents_are_not_added_without_the_residual(self, rng):
        weights, x = weights_for(rng, "PerceiverAttention", **PERCEIVER), rng.standard_normal((2, 7, 10))
        added = results("PerceiverAttention", weights, PERCEIVER, x=x)
        for ours, plain in zip(
            added, results("PerceiverAttention", weights, {**PERCEIVER, "residual": False}, x=x), strict=True
        ):
            assert_close(ours["output"], plain["output"] + weights["latents"])


class TestSlots:
    def test_weights_sum_to_one_over_elements_and_assignments_over_slots(self, rng):
        weights, x = weights_for(rng, "SlotAttention", **SLOTS), rng.standard_normal((2, 7, 10))
        noise, mask = rng.standard_normal((2, 4, 6)), np.ones((2, 1, 1, 7), bool)
        mask[0, ..., 5:] = False
        for found in results("SlotAttention", weights, SLOTS, x=x, noise=noise, mask=mask):
            assert_close(found["weights"].sum(-1), np.ones((2, 4)))
            assert_close(found["assignments"].sum(-2), mask[:, 0, 0].astype(np.float64))
            assert not found["weights"][0, :, 5:].any()

    def test_softmax_over_elements_is_detected(self, rng):
        weights, x = weights_for(rng, "SlotAttention", **SLOTS), rng.standard_normal((2, 7, 10))
        noise = rng.standard_normal((2, 4, 6))
        for found in results("SlotAttention", weights, SLOTS, x=x, noise=noise):
            assert np.abs(found["assignments"].sum(-1) - 1).max() > 0.01

    @pytest.mark.slow
    def test_fully_masked_slots_and_their_gradients_are_finite(self, rng):
        weights, x = weights_for(rng, "SlotAttention", **SLOTS), rng.standard_normal((2, 7, 10))
        noise, mask = rng.standard_normal((2, 4, 6)), np.ones((2, 1, 1, 7), bool)
        mask[1] = False
        for run in runs("SlotAttention", weights, SLOTS, x=x, noise=noise, mask=mask):
            assert not run.outputs["weights"][1].any()
            assert not run.gradients["x"][1].any()
            assert all(np.isfinite(array).all() for array in (*run.outputs.values(), *run.gradients.values()))

    def test_slots_without_noise_stay_equal(self, rng):
        weights, x = weights_for(rng, "SlotAttention", **SLOTS), rng.standard_normal((2, 7, 10))
        for found in results("SlotAttention", weights, SLOTS, x=x, noise=np.zeros((2, 4, 6))):
            assert_close(found["assignments"], np.full((2, 4, 7), 0.25))
            assert_close(found["output"], found["output"][:, :1].repeat(4, axis=1))


def test_gru_cell_with_pytorch_weights_equals_pytorch(rng):
    theirs = torch.nn.GRUCell(5, 6, dtype=torch.float64)
    weights = {name: x.detach().numpy() for name, x in theirs.state_dict().items()}
    x, state = rng.standard_normal((7, 5)), rng.standard_normal((7, 6))
    expected = run_torch(theirs, {"input": x, "hx": state})
    for found in runs("GRUCell", weights, {"input_dim": 5, "hidden_dim": 6}, x=x, state=state):
        assert_close(found.outputs["output"], expected.outputs["output"])
        for ours, name in {"x": "input", "state": "hx", **{name: name for name in weights}}.items():
            assert_close(found.gradients[ours], expected.gradients[name])
    by_hand = [oracles.gru(weights, *pair) for pair in zip(x, state, strict=True)]
    assert_close(expected.outputs["output"], by_hand)


def read(m, name, *shape, mask=None, keep=None, **arguments):
    """A call of a class that takes one sequence."""
    options = {} if keep is None else {"dropout_keep": keep}
    positional = () if mask is None else (mask,)
    return partial(getattr(m, name)(**arguments), m.nan(*shape), *positional, **options)


NOT_BOOLEAN = (
    "{} must be boolean (True: the query attends to the key), got {}; "
    ".bool() or .astype(bool) converts it, additive values go in bias"
)
LEARNED = {"PerceiverAttention": PERCEIVER, "AttentionPooling": PROBES, "PoolingByAttention": SEEDS}
DIMS = {"PerceiverAttention": 10, "AttentionPooling": 12, "PoolingByAttention": 12}
HEADS = {"PerceiverAttention": 2, "AttentionPooling": 4, "PoolingByAttention": 4}
PADDING = (
    "mask must have shape (batch, 1, 1, key) = (2, 1, 1, 7) here, "
    "as padding_mask(tokens, pad_id) gives it, got (2, 7)"
)

REFUSED = [
    *(
        Case(
            f"{name} with a mask of another shape",
            lambda m, name=name: read(m, name, 2, 7, DIMS[name], mask=m.ones(2, 7), **LEARNED[name]),
            ValueError,
            "mask must have shape (query, key) = (3, 7), (batch, query, key) = (2, 3, 7) or "
            f"(batch|1, heads|1, query|1, key|1) = (2, {HEADS[name]}, 3, 7), got (2, 7)",
        )
        for name in LEARNED
    ),
    *(
        Case(
            f"{name} with a mask that is not boolean",
            lambda m, name=name: read(
                m, name, 2, 7, DIMS[name], mask=m.ones(3, 7, dtype=np.float32), **LEARNED[name]
            ),
            TypeError,
            NOT_BOOLEAN.format("mask", "float32"),
        )
        for name in LEARNED
    ),
    *(
        Case(
            f"{name} with a dropout mask of another shape",
            lambda m, name=name: read(m, name, 2, 7, DIMS[name], keep=m.ones(3, 7), **LEARNED[name]),
            ValueError,
            f"dropout_keep must have shape (2, {HEADS[name]}, 3, 7), got (3, 7)",
        )
        for name in LEARNED
    ),
    *(
        Case(
            f"{name} of other features",
            lambda m, name=name: read(m, name, 2, 7, 5, **LEARNED[name]),
            ValueError,
            f"x must have shape (batch, length, {DIMS[name]}), got (2, 7, 5)",
        )
        for name in LEARNED
    ),
    Case(
        "latents of other features",
        lambda m: partial(m.PerceiverAttention(**PERCEIVER), m.nan(2, 7, 10), latents=m.nan(2, 3, 10)),
        ValueError,
        "latents must have shape (2, length, 8), got (2, 3, 10)",
    ),
    Case(
        "an induced block with a mask for queries",
        lambda m: read(m, "InducedSetAttentionBlock", 2, 7, 12, mask=m.ones(2, 7), **INDUCED),
        ValueError,
        PADDING,
    ),
    Case(
        "an induced block with a dropout mask of another shape",
        lambda m: read(
            m,
            "InducedSetAttentionBlock",
            2,
            7,
            12,
            keep=m.InducedKeep(inducing_weights=m.ones(2, 4, 7, 5)),
            **INDUCED,
        ),
        ValueError,
        "dropout_keep must have shape (2, 4, 5, 7), got (2, 4, 7, 5)",
    ),
    Case(
        "slots with a mask for queries",
        lambda m: partial(m.SlotAttention(**SLOTS), m.nan(2, 7, 10), m.nan(2, 3, 6), m.ones(2, 7)),
        ValueError,
        PADDING,
    ),
    Case(
        "slots with noise of other features",
        lambda m: partial(m.SlotAttention(**SLOTS), m.nan(2, 7, 10), m.nan(2, 3, 10)),
        ValueError,
        "noise must have shape (2, length, 6), got (2, 3, 10)",
    ),
    Case(
        "a block with sets of two batches",
        lambda m: partial(m.MultiheadAttentionBlock(12, 4), m.nan(2, 5, 12), m.nan(3, 7, 12)),
        ValueError,
        "memory must have shape (2, length, 12), got (3, 7, 12)",
    ),
]
IMPOSSIBLE = [
    *(
        Case(
            f"no {argument}",
            lambda m, name=name, arguments=arguments, argument=argument: partial(
                getattr(m, name), **{**arguments, argument: 0}
            ),
            ValueError,
            f"{argument} must be at least 1, got 0",
        )
        for name, arguments, argument in [
            ("PerceiverAttention", PERCEIVER, "num_latents"),
            ("AttentionPooling", PROBES, "num_probes"),
            ("PoolingByAttention", SEEDS, "num_seeds"),
            ("InducedSetAttentionBlock", INDUCED, "num_inducing"),
            ("SlotAttention", SLOTS, "num_iterations"),
        ]
    ),
    Case(
        "heads that do not divide the features",
        lambda m: partial(m.MultiheadAttentionBlock, 12, 5),
        ValueError,
        "embed_dim must be divisible by num_heads, got embed_dim=12 and num_heads=5",
    ),
    Case(
        "an unknown activation",
        lambda m: partial(m.PoolingByAttention, 12, 4, activation="sine"),
        ValueError,
        "activation must be one of relu, relu_squared, gelu, gelu_tanh, quick_gelu, silu, tanh, got sine",
    ),
]


@pytest.mark.usefixtures("as_shipped")
class TestRefusals:
    @pytest.mark.slow
    @pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
    def test_bad_input_raises_the_same_error_before_any_arithmetic(self, case):
        assert_refused(case)

    @pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.name)
    def test_bad_arguments_raise_the_same_error(self, case):
        assert_impossible(case)
