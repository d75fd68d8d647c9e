"""Attention that selects its keys: the selection, equality to dense attention when all keys are selected, bad input."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_attention.ops
import jax_attention.sparse.hashing
import jax_attention.sparse.native_sparse
import torch_attention.ops
import torch_attention.sparse.hashing
import torch_attention.sparse.native_sparse
from attention_bridge.catalogue import Part
from attention_bridge.oracles import native_sparse
from attention_bridge.oracles import positions as positions_oracle
from attention_bridge.oracles import sparse as oracles
from attention_bridge.oracles.gradient import gradient
from attention_bridge.parity.comparison import error
from attention_bridge.parity.instances import build, jax_with
from attention_bridge.parity.run import cotangent, on_platform, run_jax, run_torch
from attention_bridge.weights import transfer
from parity_tests.helpers.built import collected
from parity_tests.helpers.refusals import Case, assert_impossible, assert_refused

CLOSE = 1e-12  # of float64


def weights_for(rng, part):
    """Random weights for a module, by their PyTorch names."""
    shapes = build(part, "torch_attention", {"device": "meta"}).state_dict()
    return {name: 0.5 * rng.standard_normal(x.shape) for name, x in shapes.items()}


@collected
def runs(part, weights, **inputs):
    """Float64 runs of both mirrors, forward and backward."""
    ours = transfer(dict(weights), build(part, "torch_attention", {"dtype": torch.float64}).eval())
    yield run_torch(ours, inputs)
    with on_platform("cpu", float64=True):
        yield run_jax(jax_with(part, dict(weights), {"param_dtype": "float64"}), inputs)


def assert_same(found, expected):
    """Assert that two runs have the same outputs, and the same gradients of their common tensors."""
    for name, x in expected.outputs.items():
        assert error(found.outputs[name], x) < CLOSE, name
    for name in found.gradients.keys() & expected.gradients.keys():
        assert np.abs(found.gradients[name] - expected.gradients[name]).max() < CLOSE, name


def under(prefix, weights):
    """The weights with a prefix, as in a state dict with that submodule."""
    return {f"{prefix}.{name}": x for name, x in weights.items()}


class TestChoice:
    def test_first_of_equal_scores_is_selected(self):
        scores = np.array([[1.0, 3.0, 3.0, 3.0, 2.0], [0.0, -0.0, 0.0, -0.0, 0.0]], np.float32)
        expected = np.array([[0, 1, 1, 0, 0], [1, 1, 0, 0, 0]], bool)
        assert np.array_equal(torch_attention.ops.top_k_mask(torch.from_numpy(scores), 2), expected)
        assert np.array_equal(jax_attention.ops.top_k_mask(jnp.asarray(scores), 2), expected)

    def test_masked_keys_are_not_selected(self):
        scores = np.array([[5.0, 4.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0]], np.float32)
        mask = np.array([[0, 1, 0, 1], [0, 0, 0, 1]], bool)
        found = torch_attention.ops.top_k_mask(torch.from_numpy(scores), 2, torch.from_numpy(mask))
        assert np.array_equal(found, mask)
        assert np.array_equal(jax_attention.ops.top_k_mask(jnp.asarray(scores), 2, jnp.asarray(mask)), mask)

    def test_selection_in_float32_is_equal_in_both(self, rng):
        scores = np.round(4 * rng.standard_normal((50, 40))).astype(np.float32)  # with many ties
        for k in (1, 7, 40, 41):
            ours = torch_attention.ops.top_k_mask(torch.from_numpy(scores), k)
            theirs = jax_attention.ops.top_k_mask(jnp.asarray(scores), k)
            assert np.array_equal(ours, theirs)
            assert (np.asarray(ours).sum(-1) == min(k, 40)).all()


HEADS = {"embed_dim": 12, "num_heads": 3}


@pytest.mark.parametrize(
    ("sparse", "dense"),
    [
        (Part("TopKAttention", {**HEADS, "top_k": 7}), Part("MultiHeadSelfAttention", HEADS)),
        (Part("TopKAttention", {**HEADS, "top_k": 9, "is_causal": True}), Part("CausalSelfAttention", HEADS)),
        (
            Part("MixtureOfBlockAttention", {**HEADS, "block_size": 3, "num_blocks": 3}),
            Part("CausalSelfAttention", HEADS),
        ),
        (
            Part("MixtureOfBlockAttention", {**HEADS, "block_size": 7, "num_blocks": 1}),
            Part("CausalSelfAttention", HEADS),
        ),
    ],
    ids=["top-k", "causal top-k", "all blocks", "one block"],
)
def test_selecting_all_keys_is_dense_attention(sparse, dense, rng):
    weights, x = weights_for(rng, dense), rng.standard_normal((2, 7, 12))
    mask = rng.random((2, 3, 7, 7)) < 0.7
    for found, expected in zip(
        runs(sparse, weights, x=x, mask=mask), runs(dense, weights, x=x, mask=mask), strict=True
    ):
        assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("top_k", [2, 7])
def test_indexer_that_selects_all_keys_is_the_attention_itself(top_k, rng):
    attention = Part(
        "GroupedQueryAttention", {"embed_dim": 12, "num_heads": 4, "num_kv_heads": 2, "is_causal": True}
    )
    indexer = Part("LightningIndexer", {"embed_dim": 12, "num_heads": 5, "head_dim": 6})
    sparse = Part("DeepSeekSparseAttention", {"attention": attention, "indexer": indexer, "top_k": top_k})
    weights, x = weights_for(rng, attention), rng.standard_normal((2, 7, 12))
    all_weights = under("attention", weights) | under("indexer", weights_for(rng, indexer))
    for found, expected in zip(runs(sparse, all_weights, x=x), runs(attention, weights, x=x), strict=True):
        assert (error(found.outputs["output"], expected.outputs["output"]) < CLOSE) == (top_k == 7)
        assert (np.count_nonzero(found.outputs["weights"], axis=-1) <= top_k).all()


def test_all_heads_share_the_indexers_selection_and_give_it_no_gradient(rng):
    attention = Part("GroupedQueryAttention", {"embed_dim": 12, "num_heads": 4, "num_kv_heads": 2})
    indexer = Part("LightningIndexer", {"embed_dim": 12, "num_heads": 5, "head_dim": 6})
    sparse = Part("DeepSeekSparseAttention", {"attention": attention, "indexer": indexer, "top_k": 3})
    weights, x = weights_for(rng, sparse), rng.standard_normal((2, 9, 12))
    alone = {name.removeprefix("indexer."): x for name, x in weights.items() if name.startswith("indexer.")}
    scores = oracles.index_scores(alone, x, num_heads=5)
    chosen = oracles.index_choice(scores, None, 4, 3)
    for found in runs(sparse, weights, x=x):
        assert np.array_equal(found.outputs["weights"] != 0, np.broadcast_to(chosen, (2, 4, 9, 9)))
        for name in weights:
            assert found.gradients[name].any() == name.startswith("attention.") or name.endswith(
                "k_proj.bias"
            )


@pytest.mark.parametrize("query_dim", [None, 7])
def test_indexer_scores_and_gradients_equal_the_oracle(query_dim, rng):
    arguments = {"embed_dim": 12, "num_heads": 4, "head_dim": 6, "query_dim": query_dim}
    part = Part(
        "LightningIndexer",
        {**arguments, "position": Part("RotaryEmbedding", {"head_dim": 6, "rotary_dim": 4})},
    )
    weights, x = weights_for(rng, part), rng.standard_normal((2, 5, 12))
    given = {"x": x} if query_dim is None else {"x": x, "asked": rng.standard_normal((2, 5, 7))}
    positions = np.array([[0, 2, 3, 7, 8], [1, 2, 4, 5, 9]])
    turn = partial(positions_oracle.rotary, positions=positions, rotary_dim=4)

    def oracle(tensors):
        named = {name: tensors[name] for name in weights}
        return [oracles.index_scores(named, tensors["x"], tensors.get("asked"), num_heads=4, turn=turn)]

    (scores,) = oracle({**weights, **given})
    gradients = gradient(oracle, {**weights, **given}, [cotangent(scores.shape)])
    for found in runs(part, weights, **given, positions=positions):
        assert error(found.outputs["output"], scores) < CLOSE
        assert found.gradients.keys() == gradients.keys()
        for name, x in gradients.items():
            assert error(found.gradients[name], x) < CLOSE, name


def test_block_is_selected_by_its_mean_key_and_the_own_block_counts(rng):
    part = Part("MixtureOfBlockAttention", {**HEADS, "block_size": 2, "num_blocks": 2})
    weights, x = weights_for(rng, part), rng.standard_normal((2, 9, 12))
    _, expected = oracles.mixture_of_block_attention(weights, x, num_heads=3, block_size=2, num_blocks=2)
    _, one_more = oracles.mixture_of_block_attention(weights, x, num_heads=3, block_size=2, num_blocks=3)
    for found in runs(part, weights, x=x):
        assert error(found.outputs["weights"], expected) < CLOSE
        assert error(found.outputs["weights"], one_more) > 0.01
        blocks = np.add.reduceat(found.outputs["weights"], np.arange(0, 9, 2), axis=-1) > 0
        assert (blocks.sum(-1) == np.minimum(np.arange(9) // 2 + 1, 2)).all()


NATIVE = {"num_heads": 4, "num_kv_heads": 2}


class TestNativeSparseAttention:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("size", "stride", "selected", "length", "hidden_dim"),
        [(4, 2, 6, 14, 3), (3, 1, 2, 13, None), (2, 2, 4, 14, 3), (4, 4, 4, 3, 3), (4, 2, 6, 1, None)],
        ids=["overlapping runs", "every run", "runs within blocks", "shorter than a run", "one position"],
    )
    def test_runs_and_blocks_of_any_size_equal_the_oracle(
        self, size, stride, selected, length, hidden_dim, rng
    ):
        sizes = {
            "compressed_size": size,
            "stride": stride,
            "selected_size": selected,
            "num_selected": 4,
            "window": 3,
        }
        position = Part("RotaryEmbedding", {"head_dim": 2})
        part = Part(
            "NativeSparseAttention",
            {"embed_dim": 8, **NATIVE, **sizes, "hidden_dim": hidden_dim, "position": position},
        )
        weights, x = weights_for(rng, part), rng.standard_normal((2, length, 8))
        positions = np.tile(np.arange(length), (2, 1))
        turn = partial(positions_oracle.rotary, positions=positions, rotary_dim=2)
        output, expected = native_sparse.native_sparse_attention(weights, x, **NATIVE, **sizes, turn=turn)
        first, second = runs(part, weights, x=x)
        for found in (first, second):
            assert error(found.outputs["output"], output) < CLOSE
            assert error(found.outputs["weights"], expected) < CLOSE
        assert_same(first, second)

    @pytest.mark.slow
    def test_heads_that_share_keys_select_alike_and_always_three_blocks(self, rng):
        coarse = rng.random((2, 6, 12, 5)).astype(np.float32)
        visible = np.array(np.broadcast_to(np.tri(12, dtype=bool), (2, 6, 12, 12)))
        sizes = {"num_kv_heads": 2, "compressed_size": 4, "stride": 2, "selected_size": 2, "num_selected": 4}
        ours = torch_attention.sparse.native_sparse.chosen_keys(
            torch.from_numpy(coarse), torch.from_numpy(visible), **sizes
        ).numpy()
        theirs = jax_attention.sparse.native_sparse.chosen_keys(
            jnp.asarray(coarse), jnp.asarray(visible), **sizes
        )
        assert np.array_equal(ours, theirs)
        assert np.array_equal(ours[:, :3], ours[:, [0, 0, 0]])
        assert np.array_equal(ours[:, 3:], ours[:, [3, 3, 3]])
        assert not np.array_equal(ours[:, 0], ours[:, 3])
        for t in range(12):
            own = t // 2
            for block in {0, max(own - 1, 0), own}:
                assert ours[:, :, t, 2 * block].all()
            assert (ours[:, :, t, ::2].sum(-1) == min(own + 1, 4)).all()

    @pytest.mark.slow
    def test_gates_in_another_order_are_detected(self, rng):
        sizes = {"compressed_size": 2, "stride": 2, "selected_size": 2, "num_selected": 3, "window": 3}
        part = Part("NativeSparseAttention", {"embed_dim": 8, **NATIVE, **sizes})
        weights, x = weights_for(rng, part), rng.standard_normal((2, 9, 8))
        swapped = {
            name: np.roll(w, 4, axis=0) if name.startswith("gate_proj") else w for name, w in weights.items()
        }
        output, _ = native_sparse.native_sparse_attention(swapped, x, **NATIVE, **sizes)
        for found in runs(part, weights, x=x):
            assert error(found.outputs["output"], output) > 0.01


LSH = {**HEADS, "num_buckets": 4, "chunk_length": 3, "num_rounds": 3}


class TestLSH:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("flags", "padded"),
        [
            ((False, False, False), True),
            ((True, False, True), False),
            ((True, True, False), True),
            ((False, True, True), False),
        ],
    )
    def test_chunked_form_equals_the_definition(self, flags, padded, rng):
        names = ("is_causal", "circular", "count_repeats")
        part = Part("LSHAttention", {**LSH, **dict(zip(names, flags, strict=True))})
        weights, x = weights_for(rng, part), rng.standard_normal((2, 12, 12))
        mask = (np.arange(12) < np.array([[7], [12]]))[:, None, None]
        given = {"x": x, "mask": mask} if padded else {"x": x}
        full, chunked = (
            list(runs(part, weights, **given, need_weights=need_weights)) for need_weights in (True, False)
        )
        for definition, quick in zip(full, chunked, strict=True):
            assert "weights" not in quick.outputs
            assert error(quick.outputs["output"], definition.outputs["output"]) < CLOSE
        # The definition's loss also includes the weights; so gradients are compared within each form.
        assert_same(*chunked)
        assert_same(*full)

    def test_gradient_of_the_chunked_form_equals_the_definition(self, rng):
        part = Part("LSHAttention", {**LSH, "is_causal": True})
        weights, x = weights_for(rng, part), rng.standard_normal((2, 12, 12))
        ours = transfer(weights, build(part, "torch_attention", {"dtype": torch.float64}).eval())
        gradients = []
        for need_weights in (True, False):
            leaf = torch.from_numpy(x).requires_grad_()
            ours(leaf, need_weights=need_weights).output.square().sum().backward()
            gradients.append(leaf.grad.numpy())
        assert error(*gradients) < CLOSE

    @pytest.mark.slow
    def test_each_option_of_the_authors_code_changes_the_output(self, rng):
        weights, x = weights_for(rng, Part("LSHAttention", LSH)), rng.standard_normal((2, 12, 12))
        outputs = [
            runs(Part("LSHAttention", {**LSH, **flags}), weights, x=x)[0].outputs["output"]
            for flags in ({}, {"circular": True}, {"count_repeats": True})
        ]
        for i, j in ((0, 1), (0, 2), (1, 2)):
            assert error(outputs[i], outputs[j]) > 0.01

    def test_position_attends_to_itself_only_without_other_keys(self, rng):
        part = Part("LSHAttention", {**LSH, "is_causal": True})
        for found in runs(part, weights_for(rng, part), x=rng.standard_normal((2, 12, 12))):
            weights = found.outputs["weights"]
            alone = np.einsum("bhii->bhi", weights)
            assert set(np.unique(alone)) == {0.0, 1.0}
            assert (alone[:, :, 0] == 1.0).all()
            assert np.allclose(weights.sum(-1), 1.0)

    def test_rotations_argument_replaces_the_buffer(self, rng):
        part = Part("LSHAttention", LSH)
        weights, x = weights_for(rng, part), rng.standard_normal((2, 12, 12))
        others = {**weights, "rotations": rng.standard_normal(weights["rotations"].shape)}
        for kept, given, other in zip(
            runs(part, weights, x=x),
            runs(part, weights, x=x, rotations=others["rotations"]),
            runs(part, others, x=x),
            strict=True,
        ):
            assert np.array_equal(given.outputs["output"], other.outputs["output"])
            assert not np.array_equal(given.outputs["output"], kept.outputs["output"])

    def test_equal_directions_share_a_bucket_and_masked_positions_have_their_own(self, rng):
        x = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
        x[:, :, 4] = 2.0 * x[:, :, 1]
        rotations = rng.standard_normal((3, 4, 6, 2)).astype(np.float32)
        mask = np.array([[1, 1, 1, 0, 1], [1, 1, 0, 1, 1]], bool)[:, None, None]
        ours = torch_attention.sparse.hashing.lsh_buckets(*map(torch.from_numpy, (x, rotations, mask)))
        theirs = jax_attention.sparse.hashing.lsh_buckets(*map(jnp.asarray, (x, rotations, mask)))
        assert np.array_equal(ours, theirs)
        assert np.array_equal(ours[..., 1], ours[..., 4])
        assert np.array_equal(np.asarray(ours) == 4, np.broadcast_to(~mask, ours.shape))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TopKAttention", "MixtureOfBlockAttention", "NativeSparseAttention"])
def test_masked_key_does_not_count_towards_the_selection(name, rng):
    """With half of the keys masked, the full number of visible keys is still selected."""
    arguments = {
        "TopKAttention": {**HEADS, "top_k": 2, "is_causal": True},
        "MixtureOfBlockAttention": {**HEADS, "block_size": 1, "num_blocks": 2},
        "NativeSparseAttention": {
            "embed_dim": 12,
            **NATIVE,
            "compressed_size": 1,
            "stride": 1,
            "selected_size": 1,
            "num_selected": 4,
            "window": 1,
        },
    }[name]
    part = Part(name, arguments)
    mask = (np.arange(12) % 2 == 0)[None, None, None]
    places = {"TopKAttention": 2, "MixtureOfBlockAttention": 2}.get(name, 6)  # six: all compressed keys
    for found in runs(part, weights_for(rng, part), x=rng.standard_normal((2, 12, 12)), mask=mask):
        seen = found.outputs["weights"] != 0
        assert not seen[..., 1::2].any()
        assert (seen[:, :, -1].sum(-1) == places).all()


def self_attend(m, module, shape=(2, 12, 12), **options):
    """A call of a module with one sequence."""
    return partial(module, m.nan(*shape), **options)


def deepseek(m, top_k=2, attention=None, **indexer):
    """DeepSeek sparse attention around grouped-query attention."""
    attention = m.GroupedQueryAttention(12, 3, 1) if attention is None else attention
    return m.DeepSeekSparseAttention(
        attention, m.LightningIndexer(**{"embed_dim": 12, "num_heads": 2, "head_dim": 4} | indexer), top_k
    )


REFUSED = [
    Case(
        "no keys to keep",
        lambda m: partial(m.top_k_mask, m.nan(2, 5), 0),
        ValueError,
        "k must be at least 1, got 0",
    ),
    Case(
        "a length that is no multiple of the chunk's",
        lambda m: self_attend(m, m.LSHAttention(12, 3, 4, 5)),
        ValueError,
        "length must be divisible by chunk_length, got length=12 and chunk_length=5",
    ),
    Case(
        "rotations of another shape",
        lambda m: self_attend(m, m.LSHAttention(12, 3, 4, 3), rotations=m.nan(3, 4, 2, 2)),
        ValueError,
        "rotations must have shape (heads, head_dim, rounds, buckets / 2) = (3, 4, 1, 2), got (3, 4, 2, 2)",
    ),
    Case(
        "a mask finer than a hash can be",
        lambda m: self_attend(m, m.LSHAttention(12, 3, 4, 3), mask=m.ones(12, 12)),
        ValueError,
        "mask must have shape (batch, 1, 1, key) = (2, 1, 1, 12) here, "
        "as padding_mask(tokens, pad_id) gives it, got (12, 12)",
    ),
    Case(
        "a mask that is not boolean",
        lambda m: self_attend(m, m.TopKAttention(12, 3, 2), mask=m.ones(12, 12, dtype=np.float32)),
        TypeError,
        "mask must be boolean (True: the query attends to the key), got float32; "
        ".bool() or .astype(bool) converts it, additive values go in bias",
    ),
    Case(
        "unused positions",
        lambda m: self_attend(m, m.NativeSparseAttention(12, 3, 1), positions=m.ones(12, dtype=np.int32)),
        ValueError,
        "positions need a position scheme that reads them, got position=None",
    ),
    Case(
        "an indexer query of another size",
        lambda m: self_attend(m, m.LightningIndexer(12, 2, 4, query_dim=7), asked=m.nan(2, 12, 8)),
        ValueError,
        "asked must have shape (2, length, 7), got (2, 12, 8)",
    ),
    Case(
        "a sequence of another size",
        lambda m: self_attend(m, deepseek(m), shape=(2, 12, 11)),
        ValueError,
        "x must have shape (batch, length, 12), got (2, 12, 11)",
    ),
]

IMPOSSIBLE = [
    Case(
        "no keys to keep",
        lambda m: partial(m.TopKAttention, 12, 3, 0),
        ValueError,
        "top_k must be at least 1, got 0",
    ),
    Case(
        "blocks of size 0",
        lambda m: partial(m.MixtureOfBlockAttention, 12, 3, 0, 2),
        ValueError,
        "block_size must be at least 1, got 0",
    ),
    Case(
        "no blocks",
        lambda m: partial(m.MixtureOfBlockAttention, 12, 3, 2, 0),
        ValueError,
        "num_blocks must be at least 1, got 0",
    ),
    Case(
        "runs that no stride divides",
        lambda m: partial(m.NativeSparseAttention, 12, 3, 1, compressed_size=5, stride=2),
        ValueError,
        "compressed_size must be divisible by stride, got compressed_size=5 and stride=2",
    ),
    Case(
        "blocks that no stride divides",
        lambda m: partial(m.NativeSparseAttention, 12, 3, 1, compressed_size=4, stride=2, selected_size=3),
        ValueError,
        "selected_size must be divisible by stride, got selected_size=3 and stride=2",
    ),
    Case(
        "fewer blocks than are always visible",
        lambda m: partial(m.NativeSparseAttention, 12, 3, 1, num_selected=2),
        ValueError,
        "num_selected must be at least 3, got 2",
    ),
    Case(
        "groups that do not divide the heads",
        lambda m: partial(m.NativeSparseAttention, 12, 3, 2),
        ValueError,
        "num_heads must be divisible by num_kv_heads, got num_heads=3 and num_kv_heads=2",
    ),
    Case(
        "a window of 0",
        lambda m: partial(m.NativeSparseAttention, 12, 3, 1, window=0),
        ValueError,
        "window must be at least 1 (it counts the query's own key), got 0",
    ),
    Case(
        "an odd number of buckets",
        lambda m: partial(m.LSHAttention, 12, 3, 5, 2),
        ValueError,
        "num_buckets must be even, got 5",
    ),
    Case(
        "no rounds",
        lambda m: partial(m.LSHAttention, 12, 3, 4, 2, num_rounds=0),
        ValueError,
        "num_rounds must be at least 1, got 0",
    ),
    Case(
        "a selection of no key",
        lambda m: partial(deepseek, m, 0),
        ValueError,
        "top_k must be at least 1, got 0",
    ),
    Case(
        "an indexer for another sequence",
        lambda m: partial(deepseek, m, embed_dim=10),
        ValueError,
        "indexer must have embed_dim=12 as attention, got 10",
    ),
    Case(
        "an indexer that needs a missing latent",
        lambda m: partial(deepseek, m, query_dim=7),
        ValueError,
        "indexer must have query_dim=None or the size of the attention's query latent, None, got 7",
    ),
]


@pytest.mark.usefixtures("as_shipped")
class TestRefusals:
    @pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
    def test_bad_call_raises_the_same_error(self, case):
        assert_refused(case)

    @pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.name)
    def test_bad_arguments_raise_the_same_error(self, case):
        assert_impossible(case)
