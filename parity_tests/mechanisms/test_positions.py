"""Positional encodings: conventions, use in any attention class, dependence on distance alone, and bad input."""

import inspect
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import _get_alibi_slopes
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position
from transformers.models.t5.modeling_t5 import T5Attention

import jax_attention
import torch_attention
from attention_bridge.catalogue import CATALOGUE, Part, select
from attention_bridge.parity.comparison import assert_parity, error
from attention_bridge.parity.instances import build, jax_with
from attention_bridge.parity.run import on_platform
from jax_attention.positions import transformer_xl as jax_xl
from parity_tests.helpers.refusals import MIRRORS, Case, assert_impossible, assert_refused
from torch_attention.positions import (
    alibi_slopes,
    dynamic_ntk_frequencies,
    linear_frequencies,
    llama3_frequencies,
    longrope_amplitude,
    longrope_frequencies,
    place,
    proportional_frequencies,
    rotary_frequencies,
    yarn_amplitude,
    yarn_frequencies,
)
from torch_attention.positions import transformer_xl as torch_xl
from torch_attention.positions.deberta import deberta_bucket
from torch_attention.positions.protocol import distances, look_up
from torch_attention.positions.shaw import relative_scores
from torch_attention.positions.t5 import t5_bucket

PARTS = {
    "RotaryEmbedding": Part("RotaryEmbedding", {"head_dim": 4}),
    "MultiAxisRotaryEmbedding": Part("MultiAxisRotaryEmbedding", {"head_dim": 4, "sections": (1, 1)}),
    "AxialRotaryEmbedding": Part("AxialRotaryEmbedding", {"head_dim": 4}),
    "ALiBi": Part("ALiBi", {"num_heads": 3}),
    "T5Bias": Part("T5Bias", {"num_heads": 3, "num_buckets": 8, "max_distance": 6}),
    "ShawEmbedding": Part("ShawEmbedding", {"head_dim": 4, "max_distance": 2}),
    "TransformerXLEmbedding": Part("TransformerXLEmbedding", {"embed_dim": 8, "num_heads": 3, "head_dim": 4}),
}
ONE_HEAD = {"num_heads": 1, "num_buckets": 8, "max_distance": 6, "head_dim": 12, "embed_dim": 8}
HOLDERS = {
    "SelfAttention": {"embed_dim": 12},
    "MultiHeadSelfAttention": {"embed_dim": 12, "num_heads": 3},
    "CausalSelfAttention": {"embed_dim": 12, "num_heads": 3},
    "GroupedQueryAttention": {"embed_dim": 12, "num_heads": 3, "num_kv_heads": 1},
    "CrossAttention": {"query_dim": 12, "key_dim": 10, "embed_dim": 12},
    "MultiHeadCrossAttention": {"query_dim": 12, "key_dim": 10, "embed_dim": 12, "num_heads": 3},
}
each_part = pytest.mark.parametrize("name", PARTS)


def part_for(holder: str, name: str) -> Part:
    """The encoding with sizes that fit the heads of the class."""
    part = PARTS[name]
    if holder in ("SelfAttention", "CrossAttention"):
        own = {key: ONE_HEAD[key] for key in part.arguments if key in ONE_HEAD}
        sections = {"sections": (2, 4)} if "sections" in part.arguments else {}
        return Part(name, {**part.arguments, **own, **sections})
    return part


def in_torch(part: Part, dtype: str = "float64") -> torch.nn.Module:
    """The module in PyTorch, with random weights."""
    module = build(part, "torch_attention", {"dtype": getattr(torch, dtype)}).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return module


def pair(part: Part, dtype: str = "float32"):
    """The module in both mirrors, with the same random weights."""
    ours = in_torch(part, dtype)
    with on_platform("cpu", float64=dtype == "float64"):
        return ours, jax_with(part, ours, {"param_dtype": dtype})


def of(position: torch.nn.Module, *shape: int) -> tuple[int, ...]:
    """The shape of the positions that the encoding takes."""
    axes = getattr(position, "num_axes", None)
    return shape if axes is None else (*shape, axes)


def heads(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


def scores(position: torch.nn.Module, query, key, query_positions, key_positions) -> torch.Tensor:
    placed = place(position, query, key, query_positions, key_positions)
    found = placed.query @ placed.key.mT / query.shape[-1] ** 0.5
    return found if placed.bias is None else found + placed.bias


class TestEverywhere:
    @pytest.mark.parametrize(
        "name",
        [  # one multiplicative and one additive encoding; the others are slow tests
            name
            if name in ("RotaryEmbedding", "TransformerXLEmbedding")
            else pytest.param(name, marks=pytest.mark.slow)
            for name in PARTS
        ],
    )
    @pytest.mark.parametrize("holder", HOLDERS)
    def test_any_dot_product_class_takes_any_encoding(self, holder, name, rng):
        ours, theirs = pair(Part(holder, {**HOLDERS[holder], "position": part_for(holder, name)}), "float64")
        x = rng.standard_normal((2, 5, 12))
        if "Cross" in holder:
            memory = rng.standard_normal((2, 7, 10))
            given = {
                "memory": memory,
                "query_positions": rng.integers(0, 9, of(ours.position, 2, 5)),
                "key_positions": rng.integers(0, 9, of(ours.position, 7)),
            }
            assert_parity(ours, theirs, x, **given)
            ours.position = None
            memory = torch.from_numpy(memory)
            without = ours(torch.from_numpy(x), memory).weights
            ours.position = in_torch(part_for(holder, name))
            assert (
                error(ours(torch.from_numpy(x), memory).weights.numpy(force=True), without.numpy(force=True))
                > 1e-3
            )
        else:
            assert_parity(ours, theirs, x, positions=rng.integers(0, 9, of(ours.position, 2, 5)))

    @each_part
    def test_score_depends_only_on_the_distance(self, name, rng):
        ours = in_torch(PARTS[name])
        query, key = heads(rng, 2, 3, 5, 4), heads(rng, 2, 3, 7, 4)
        axes = getattr(ours, "num_axes", None)
        here, there = (torch.from_numpy(rng.integers(0, 9, of(ours, 2, length))) for length in (5, 7))
        before = scores(ours, query, key, here, there)
        moved = 100 if axes is None else torch.tensor([100, 3])
        after = scores(ours, query, key, here + moved, there + moved)
        assert error(after.numpy(force=True), before.numpy(force=True)) < 1e-12
        assert (
            error(scores(ours, query, key, here + moved, there).numpy(force=True), before.numpy(force=True))
            > 1e-3
        )

    @each_part
    def test_explicit_default_positions_change_nothing(self, name, rng):
        query, key = heads(rng, 2, 3, 5, 4), heads(rng, 2, 3, 7, 4)
        ours = in_torch(PARTS[name])
        axes = getattr(ours, "num_axes", None)
        here, there = torch.arange(5), torch.arange(7)
        if axes is not None:
            here, there = (x[:, None].expand(-1, axes) for x in (here, there))
        counted, given = scores(ours, query, key, None, None), scores(ours, query, key, here, there)
        assert error(given.numpy(force=True), counted.numpy(force=True)) < 1e-12
        batched = scores(ours, query, key, here.expand(2, *here.shape), there.expand(2, *there.shape))
        assert torch.equal(batched, given)

    @each_part
    def test_single_query_has_the_score_of_the_full_pass(self, name, rng):
        query, key = heads(rng, 2, 3, 7, 4), heads(rng, 2, 3, 7, 4)
        ours = in_torch(PARTS[name])
        axes = getattr(ours, "num_axes", None)
        last = torch.tensor([6]) if axes is None else torch.full((1, axes), 6)
        everything = scores(ours, query, key, None, None)[:, :, -1:]
        alone = scores(ours, query[:, :, -1:], key, last, None)
        assert error(alone.numpy(force=True), everything.numpy(force=True)) < 1e-12


class TestRotary:
    def test_interleaved_pairs_are_permuted_half_split_pairs(self, rng):
        x = heads(rng, 2, 3, 5, 8)
        half, neighbours = (
            torch_attention.RotaryEmbedding(8, interleaved=interleaved) for interleaved in (False, True)
        )
        order = [i // 2 + 4 * (i % 2) for i in range(8)]  # 0 4 1 5 2 6 3 7
        assert torch.allclose(neighbours(x[..., order], x).query, half(x, x).query[..., order])
        assert error(neighbours(x, x).query.numpy(), half(x, x).query.numpy()) > 0.1

    def test_partial_rotary_leaves_the_other_features_unchanged(self, rng):
        x = heads(rng, 2, 3, 5, 8)
        placed = torch_attention.RotaryEmbedding(8, rotary_dim=4)(x, x)
        assert torch.equal(placed.query[..., 4:], x[..., 4:])
        assert torch.equal(
            placed.query[..., :4], torch_attention.RotaryEmbedding(4)(x[..., :4], x[..., :4]).query
        )

    def test_equal_coordinates_are_plain_rotary(self, rng):
        x, positions = heads(rng, 2, 3, 5, 8), torch.from_numpy(rng.integers(0, 9, (2, 5)))
        many = torch_attention.MultiAxisRotaryEmbedding(8, (1, 2, 1))
        plain = torch_attention.RotaryEmbedding(8)
        spread = positions[..., None].expand(-1, -1, 3)
        assert torch.equal(many(x, x, spread, spread).query, plain(x, x, positions, positions).query)
        assert torch.equal(many(x, x).key, plain(x, x).key)

    def test_axial_rotary_rotates_each_part_by_its_own_axis(self, rng):
        x, positions = heads(rng, 2, 3, 5, 8), torch.from_numpy(rng.integers(0, 9, (5, 2)))
        found = torch_attention.AxialRotaryEmbedding(8)(x, x, positions, positions).query
        plain = torch_attention.RotaryEmbedding(4)
        for axis, share in enumerate(([0, 1, 4, 5], [2, 3, 6, 7])):
            along = positions[:, axis]
            assert torch.allclose(found[..., share], plain(x[..., share], x[..., share], along, along).query)

    def test_single_axis_is_plain_rotary(self, rng):
        x, positions = heads(rng, 2, 3, 5, 8), torch.from_numpy(rng.integers(0, 9, (5, 1)))
        plain = torch_attention.RotaryEmbedding(8)(x, x, positions[:, 0], positions[:, 0]).query
        for one in (
            torch_attention.MultiAxisRotaryEmbedding(8, (4,)),
            torch_attention.AxialRotaryEmbedding(8, num_axes=1),
        ):
            assert torch.equal(one(x, x, positions, positions).query, plain)

    def test_amplitude_multiplies_scores_by_its_square(self, rng):
        x = heads(rng, 2, 3, 5, 8)
        plain, strong = torch_attention.RotaryEmbedding(8), torch_attention.RotaryEmbedding(8, amplitude=1.5)
        assert torch.allclose(
            scores(strong, x, x, None, None), 1.5**2 * scores(plain, x, x, None, None), rtol=1e-12
        )


def theirs_scaled(kind: str, length: int, **parameters: object) -> tuple[np.ndarray, float]:
    """Frequencies and amplitude of transformers, for a head of 128 features."""
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        max_position_embeddings=64,
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **parameters},
    )
    frequencies, amplitude = ROPE_INIT_FUNCTIONS[kind](config, seq_len=length)
    return frequencies.numpy(), amplitude


LONG = {"short_factor": [1.0 + i / 64 for i in range(64)], "long_factor": [1.0 + i for i in range(64)]}
OURS_LONG = {"short_factors": LONG["short_factor"], "long_factors": LONG["long_factor"]}
ORIGINAL = {"original_max_position_embeddings": 4096}
SCALINGS = {
    "linear": ({}, lambda _: linear_frequencies(128, 4.0), lambda: 1.0),
    "dynamic": (
        {},
        lambda length: dynamic_ntk_frequencies(128, length, 4.0, original_length=64),
        lambda: 1.0,
    ),
    "yarn": (
        ORIGINAL,
        lambda _: yarn_frequencies(128, 4.0, original_length=4096),
        lambda: yarn_amplitude(4.0),
    ),
    "yarn not truncated, as DeepSeek": (
        {
            **ORIGINAL,
            "truncate": False,
            "mscale": 0.7,
            "mscale_all_dim": 0.3,
            "beta_fast": 16,
            "beta_slow": 2,
        },
        lambda _: yarn_frequencies(
            128, 4.0, original_length=4096, beta_fast=16.0, beta_slow=2.0, truncate=False
        ),
        lambda: yarn_amplitude(4.0, 0.7) / yarn_amplitude(4.0, 0.3),
    ),
    "llama3": (
        {**ORIGINAL, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        lambda _: llama3_frequencies(128, 4.0, original_length=4096, base=10000.0),
        lambda: 1.0,
    ),
    "longrope": (
        {**ORIGINAL, **LONG},
        lambda length: longrope_frequencies(128, length, original_length=4096, **OURS_LONG),
        lambda: longrope_amplitude(4.0, original_length=4096),
    ),
    "proportional": (
        {"partial_rotary_factor": 0.25},
        lambda _: proportional_frequencies(128, 0.25, factor=4.0),
        lambda: 1.0,
    ),
}


class TestScaling:
    @pytest.mark.parametrize("length", [60, 100, 5000])
    @pytest.mark.parametrize("name", SCALINGS)
    def test_frequencies_are_those_of_transformers(self, name, length):
        parameters, frequencies, amplitude = SCALINGS[name]
        theirs, factor = theirs_scaled(name.partition(" ")[0], length, **parameters)
        ours = np.array(frequencies(length))
        # transformers computes in float32
        assert np.max(np.abs(theirs - ours) / np.where(ours == 0.0, 1.0, ours)) < 2e-6
        assert amplitude() == pytest.approx(factor, rel=1e-12)

    def test_scalings_without_extension_change_nothing(self):
        plain = rotary_frequencies(16)
        assert linear_frequencies(16, 1.0) == plain
        assert dynamic_ntk_frequencies(16, 60, 4.0, original_length=64) == plain
        assert yarn_frequencies(16, 1.0, original_length=64) == pytest.approx(plain)
        assert yarn_amplitude(1.0) == longrope_amplitude(1.0, original_length=64) == 1.0
        assert llama3_frequencies(16, 1.0, original_length=64, base=10000.0) == pytest.approx(plain)
        ones = (1.0,) * 8
        assert longrope_frequencies(16, 9, short_factors=ones, long_factors=ones, original_length=8) == plain
        assert proportional_frequencies(16, 1.0) == plain

    def test_longrope_changes_its_factors_above_the_original_length(self):
        at, above = (
            longrope_frequencies(128, length, original_length=64, **OURS_LONG) for length in (64, 65)
        )
        plain = rotary_frequencies(128)
        assert at == tuple(t / s for t, s in zip(plain, LONG["short_factor"], strict=True))
        assert above == tuple(t / s for t, s in zip(plain, LONG["long_factor"], strict=True))

    @pytest.mark.parametrize("cached", [False, True])
    @pytest.mark.parametrize("kind", ["dynamic", "longrope"])
    def test_frequencies_follow_the_length_of_each_row(self, kind, cached, rng):
        short, long = (1.0, 1.5, 2.0), (1.25, 2.5, 4.0)
        sizes = {"original_length": 4, "base": 50.0}

        def at(length):
            if kind == "dynamic":
                return dynamic_ntk_frequencies(6, length, 3.0, **sizes)
            return longrope_frequencies(6, length, short_factors=short, long_factors=long, **sizes)

        options = {"ntk_factor": 3.0} if kind == "dynamic" else {"long_frequencies": at(5)}
        options |= {"frequencies": at(4), "original_length": 4}
        query, key = (heads(rng, 2, 3, n, 6) for n in (2, 6))
        offsets = np.array([[4], [1]] if cached else [[0], [4]])
        positions = torch.from_numpy(offsets + np.arange(2))
        for name, (module, array) in {
            "torch": (torch_attention, torch.as_tensor),
            "jax": (jax_attention, jnp.asarray),
        }.items():
            with on_platform("cpu", float64=True):
                given = [array(x.numpy()) for x in (query, key, positions)]
                found = module.RotaryEmbedding(6, **options)(*given)
                for row, length in enumerate(positions.max(-1).values + 1):
                    one = module.RotaryEmbedding(6, frequencies=at(int(length)))
                    expected = one(*(x[row : row + 1] for x in given))
                    for x, y in zip(found[:2], expected[:2], strict=True):
                        assert error(np.asarray(x[row]), np.asarray(y[0])) < 1e-12, (name, row)

    def test_frequencies_follow_the_number_of_tokens(self, rng):
        query = heads(rng, 1, 1, 5, 4)
        changing = torch_attention.RotaryEmbedding(
            4, original_length=3, long_frequencies=(0.5, 0.1), frequencies=(1.0, 0.2)
        )
        for length, frequencies in ((3, (1.0, 0.2)), (4, (0.5, 0.1))):
            fixed = torch_attention.RotaryEmbedding(4, frequencies=frequencies)
            x = query[:, :, :length]
            assert torch.equal(changing(x, x).query, fixed(x, x).query)

    def test_ramp_with_another_start_is_detected(self):
        theirs, _ = theirs_scaled("yarn", 100, **ORIGINAL)
        off = yarn_frequencies(128, 4.0, original_length=4096, beta_fast=24.0)
        assert not np.allclose(theirs, off, rtol=1e-2)


class TestLinearBiases:
    def test_six_heads_have_the_slopes_of_the_reference(self):
        assert alibi_slopes(6) == (2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3)
        plain = [2.0 ** (-8 * (h + 1) / 6) for h in range(6)]  # a common alternative formula
        assert not np.allclose(alibi_slopes(6), plain, rtol=0.1)

    @pytest.mark.parametrize("num_heads", [1, 2, 3, 5, 6, 8, 12, 16, 20, 71, 112])
    def test_slopes_are_those_of_bloom(self, num_heads):
        theirs = _get_alibi_slopes(num_heads, torch.device("cpu")).numpy()
        assert np.allclose(alibi_slopes(num_heads), theirs, rtol=1e-5)

    def test_later_keys_have_the_bias_of_earlier_keys_at_the_same_distance(self, rng):
        query = heads(rng, 2, 3, 5, 4)
        bias = torch_attention.ALiBi(3)(query, query).bias
        assert torch.equal(bias, bias.mT)
        slope = alibi_slopes(3)[1]
        assert bias[0, 1, 4].tolist() == [-4 * slope, -3 * slope, -2 * slope, -slope, 0.0]


class TestBuckets:
    @pytest.mark.parametrize("bidirectional", [True, False])
    @pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 16), (12, 17), (64, 1000)])
    def test_t5_buckets_are_those_of_transformers(self, num_buckets, max_distance, bidirectional):
        apart = list(range(-2 * max_distance, 2 * max_distance))
        theirs = T5Attention._relative_position_bucket(
            torch.tensor(apart), bidirectional, num_buckets, max_distance
        )
        sizes = {"num_buckets": num_buckets, "max_distance": max_distance, "bidirectional": bidirectional}
        assert [t5_bucket(x, **sizes) for x in apart] == theirs.tolist()

    @pytest.mark.parametrize(("num_buckets", "max_distance"), [(256, 512), (32, 128), (8, 16), (4, 20)])
    def test_deberta_buckets_are_those_of_transformers(self, num_buckets, max_distance):
        apart = list(range(-max_distance + 1, max_distance))
        theirs = make_log_bucket_position(torch.tensor(apart), num_buckets, max_distance)
        assert [
            deberta_bucket(x, num_buckets=num_buckets, max_distance=max_distance) for x in apart
        ] == theirs.int().tolist()

    def test_bucket_boundaries_are_exact(self):
        # Boundaries at 8 (16 / 8)^m exactly, which a rounded logarithm may miss.
        sizes = {"num_buckets": 32, "max_distance": 128, "bidirectional": True}
        assert [t5_bucket(-(2**n), **sizes) for n in range(3, 8)] == [8, 10, 12, 14, 15]
        assert [t5_bucket(-(2**n) + 1, **sizes) for n in range(4, 8)] == [9, 11, 13, 15]

    def test_distances_beyond_a_table_use_its_ends(self):
        table = (10, 11, 12, 13, 14)
        assert look_up(torch.arange(-4, 5), table).tolist() == [10, 10, 10, 11, 12, 13, 14, 14, 14]

    def test_distances_run_from_the_query_to_the_key(self, rng):
        query, key = heads(rng, 2, 3, 2, 4), heads(rng, 2, 3, 3, 4)
        assert distances(query, key).tolist() == [[[[0, 1, 2], [-1, 0, 1]]]]
        assert distances(query, key, torch.tensor([[5, 6], [7, 9]])).shape == (2, 1, 2, 3)


class TestRelativeScores:
    def test_relative_scores_are_products_with_the_row_of_every_pair(self, rng):
        x, rows = heads(rng, 2, 3, 5, 4), heads(rng, 3, 6, 4)
        row = torch.from_numpy(rng.integers(0, 6, (2, 1, 5, 7)))
        slow = torch.stack([torch.einsum("bqd,bqkd->bqk", x[:, h], rows[h][row[:, 0]]) for h in range(3)], 1)
        assert torch.allclose(relative_scores(x, rows, row), slow, rtol=1e-12)

    @pytest.mark.slow
    def test_transformer_xl_scores_equal_the_definition_with_their_gradients(self, rng):
        query, key, weight = heads(rng, 2, 3, 5, 4), heads(rng, 2, 3, 7, 4), heads(rng, 8, 3, 4)
        frequencies = torch.tensor(rotary_frequencies(8), dtype=torch.float64)
        apart = torch.arange(5)[:, None] - torch.arange(7)
        angles = apart[..., None] * frequencies
        encoded = torch.cat([angles.sin(), angles.cos()], -1)  # query key embed

        def slow(query, weight):
            return torch.einsum("bhqd,qkhd->bhqk", query, torch.einsum("qke,ehd->qkhd", encoded, weight))

        def counted(query, weight):
            return torch_xl.counted_distance_scores(query, key, weight, frequencies)

        def turned(query, weight):
            return torch_xl.distance_scores(query, weight, frequencies, torch.arange(5), torch.arange(7))

        cotangent = heads(rng, 2, 3, 5, 7)
        expected = (slow(query, weight), *torch.func.vjp(slow, query, weight)[1](cotangent))
        for fast in (counted, turned):
            found = (fast(query, weight), *torch.func.vjp(fast, query, weight)[1](cotangent))
            for one, other in zip(found, expected, strict=True):
                assert error(one.numpy(), other.numpy()) < 1e-12
        with jax.enable_x64(True):
            args = (jnp.asarray(x.numpy()) for x in (query, key, weight, frequencies))
            assert error(np.asarray(jax_xl.counted_distance_scores(*args)), expected[0].numpy()) < 1e-12

    def test_shaw_with_zero_value_embeddings_is_multi_head_attention_with_its_embedding(self, rng):
        whole = in_torch(Part("ShawSelfAttention", {"embed_dim": 12, "num_heads": 3, "max_distance": 2}))
        torch.nn.init.zeros_(whole.value_embedding.weight)
        held = in_torch(
            Part(
                "MultiHeadSelfAttention",
                {"embed_dim": 12, "num_heads": 3, "position": PARTS["ShawEmbedding"]},
            )
        )
        held.load_state_dict({k: v for k, v in whole.state_dict().items() if k != "value_embedding.weight"})
        x = heads(rng, 2, 5, 12)
        for ours, theirs in zip(whole(x), held(x), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-12)

    def test_deberta_uses_the_same_row_for_both_position_terms(self, rng):
        """As in the authors' code; in the paper's third term it is the row of j - i, which differs."""
        name = "DisentangledSelfAttention"
        ours = in_torch(
            Part(name, {"embed_dim": 6, "num_heads": 1, "num_buckets": 4, "max_distance": 6, "bias": False})
        )
        x = heads(rng, 1, 3, 6)
        query, key = ours.q_proj(x)[0], ours.k_proj(x)[0]
        table = ours.relative_embedding.weight
        apart = torch.arange(3)[:, None] - torch.arange(3)  # i - j, each with its own row
        by_query, by_key = ours.q_proj(table)[apart + 4], ours.k_proj(table)[apart + 4]
        asked = torch.einsum("qd,kd->qk", query, key) + torch.einsum("qd,qkd->qk", query, by_key)
        released = asked + torch.einsum("kd,qkd->qk", key, by_query)
        printed = asked + torch.einsum("kd,kqd->qk", key, by_query)
        found = ours(x).weights[0, 0]
        assert torch.allclose(found, (released / 18**0.5).softmax(-1), rtol=1e-12)
        assert not torch.allclose(found, (printed / 18**0.5).softmax(-1), rtol=1e-3)


class TestAbsolute:
    def test_sines_and_cosines_alternate_as_in_the_paper(self):
        added = torch_attention.SinusoidalEmbedding(6)(torch.zeros(1, 3, 6, dtype=torch.float64))[0, 2]
        thetas = [10000 ** (-2 * i / 6) for i in range(3)]
        expected = [f(2 * theta) for theta in thetas for f in (math.sin, math.cos)]
        assert added.tolist() == pytest.approx(expected, rel=1e-12)

    def test_all_sines_come_first_without_interleaving(self):
        nothing = torch.zeros(1, 5, 6)
        paper = torch_attention.SinusoidalEmbedding(6)(nothing)
        halves = torch_attention.SinusoidalEmbedding(6, interleaved=False)(nothing)
        assert torch.equal(halves, paper[..., [0, 2, 4, 1, 3, 5]])
        assert not torch.equal(halves, paper)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["SinusoidalEmbedding", "LearnedEmbedding"])
    def test_default_positions_start_at_0(self, name, rng):
        (mechanism,) = select([name])
        for module, array in zip(pair(mechanism.module), (torch.from_numpy, jnp.asarray), strict=True):
            x = array(rng.standard_normal((2, 5, 12)).astype(np.float32))
            assert np.array_equal(
                np.asarray(module(x).tolist()), np.asarray(module(x, array(np.arange(5))).tolist())
            )

    @pytest.mark.slow
    def test_compiled_code_does_not_read_the_values_of_positions(self, as_shipped):
        ours, theirs = pair(Part("LearnedEmbedding", {"max_len": 7, "embed_dim": 6}))
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
        x, positions = np.zeros((2, 5, 6), np.float32), np.arange(5) + 2
        found = compiled(torch.from_numpy(x), torch.from_numpy(positions))
        assert torch.equal(found, ours(torch.from_numpy(x), torch.from_numpy(positions)))
        run = jax.jit(lambda positions: theirs(jnp.asarray(x), positions))
        assert np.array_equal(np.asarray(run(positions)), found.numpy(force=True))
        mapped = torch.func.vmap(lambda p: ours(torch.from_numpy(x), p))(torch.from_numpy(positions)[None])
        assert torch.equal(mapped[0], found)


def held(m, name, *arguments, holder="MultiHeadSelfAttention", **options):
    return getattr(m, holder)(12, 3, position=getattr(m, name)(*arguments), **options)


def call(m, module, **options):
    return partial(module, m.nan(2, 5, 12), **options)


def ints(m, *numbers):
    return m.array(np.array(numbers, np.int32))


def place_heads(m, module, *shape):
    return partial(module, m.nan(*shape), m.nan(*shape))


REFUSED = [
    Case(
        "a sequence longer than the table",
        lambda m: partial(m.LearnedEmbedding(4, 12), m.nan(2, 5, 12)),
        ValueError,
        "x must have at most max_len=4 positions, got 5",
    ),
    Case(
        "a position past the table",
        lambda m: partial(m.LearnedEmbedding(4, 12), m.nan(2, 3, 12), ints(m, 0, 4, 1)),
        ValueError,
        "positions must be from 0 to 3, for max_len=4, got 0 to 4",
    ),
    Case(
        "a position before the table",
        lambda m: partial(m.LearnedEmbedding(4, 12), m.nan(2, 3, 12), ints(m, 0, -1, 1)),
        ValueError,
        "positions must be from 0 to 3, for max_len=4, got -1 to 1",
    ),
    Case(
        "positions of another length to an embedding",
        lambda m: partial(m.SinusoidalEmbedding(12), m.nan(2, 3, 12), ints(m, 0, 1)),
        ValueError,
        "positions must have shape (3,) or (2, 3), got (2,)",
    ),
    Case(
        "positions without coordinates",
        lambda m: call(m, held(m, "AxialRotaryEmbedding", 4), positions=ints(m, 0, 1, 2, 3, 4)),
        ValueError,
        "positions must have shape (5, 2) or (2, 5, 2), got (5,)",
    ),
    Case(
        "positions of another length to a class of its own",
        lambda m: partial(m.ShawSelfAttention(12, 3, 2), m.nan(2, 5, 12), positions=ints(m, 0, 1)),
        ValueError,
        "positions must have shape (5,) or (2, 5), got (2,)",
    ),
    Case(
        "another number of heads",
        lambda m: place_heads(m, m.ALiBi(6), 2, 3, 5, 4),
        ValueError,
        "query must have num_heads=6, got 3",
    ),
    Case(
        "heads of another size",
        lambda m: place_heads(m, m.ShawEmbedding(6, 2), 2, 3, 5, 4),
        ValueError,
        "query must have head_dim=6, got 4",
    ),
    Case(
        "heads of another size to Transformer-XL",
        lambda m: place_heads(m, m.TransformerXLEmbedding(8, 3, 6), 2, 3, 5, 4),
        ValueError,
        "query must have head_dim=6, got 4",
    ),
    Case(
        "a mask that is not boolean, to DeBERTa's",
        lambda m: partial(
            m.DisentangledSelfAttention(12, 3, num_buckets=4, max_distance=6),
            m.nan(2, 5, 12),
            m.nan(5, 5),
        ),
        TypeError,
        "mask must be boolean (True: the query attends to the key), got float32; "
        ".bool() or .astype(bool) converts it, additive values go in bias",
    ),
]
IMPOSSIBLE = [
    Case(
        "an odd sinusoid",
        lambda m: partial(m.SinusoidalEmbedding, 5),
        ValueError,
        "embed_dim must be divisible by pair, got embed_dim=5 and pair=2",
    ),
    Case(
        "no position",
        lambda m: partial(m.LearnedEmbedding, 0, 4),
        ValueError,
        "max_len must be at least 1, got 0",
    ),
    Case("no head", lambda m: partial(m.ALiBi, 0), ValueError, "num_heads must be at least 1, got 0"),
    Case(
        "sections that leave pairs over",
        lambda m: partial(m.MultiAxisRotaryEmbedding, 8, (1, 2)),
        ValueError,
        "sections must be at least 1 each and sum to the 4 pairs of head_dim=8, got (1, 2)",
    ),
    Case(
        "a head that axes do not divide",
        lambda m: partial(m.AxialRotaryEmbedding, 6),
        ValueError,
        "head_dim must be divisible by pairs, got head_dim=6 and pairs=4",
    ),
    Case(
        "an odd number of buckets for two directions",
        lambda m: partial(m.T5Bias, 3, num_buckets=7),
        ValueError,
        "num_buckets must be divisible by sides, got num_buckets=7 and sides=2",
    ),
    Case(
        "a distance that the exact buckets reach",
        lambda m: partial(m.T5Bias, 3, num_buckets=32, max_distance=8),
        ValueError,
        "max_distance must be above 8, the distances with a bucket of their own, and these at least 1, "
        "got max_distance=8 and num_buckets=32",
    ),
    Case(
        "no distance",
        lambda m: partial(m.ShawEmbedding, 4, 0),
        ValueError,
        "max_distance must be at least 1, got 0",
    ),
    Case(
        "buckets beyond the distance",
        lambda m: partial(m.DisentangledSelfAttention, 12, 3, num_buckets=8, max_distance=5),
        ValueError,
        "num_buckets must be at least 4 and max_distance above num_buckets / 2 + 1, "
        "got num_buckets=8 and max_distance=5",
    ),
    Case(
        "no pair to stretch",
        lambda m: partial(m.dynamic_ntk_frequencies, 2, 9, 4.0, original_length=8),
        ValueError,
        "rotary_dim must be above 2, got 2",
    ),
    Case(
        "no pair to stretch in an encoding",
        lambda m: partial(m.RotaryEmbedding, 4, rotary_dim=2, original_length=8, ntk_factor=2.0),
        ValueError,
        "rotary_dim must be above 2 with ntk_factor, got 2",
    ),
    Case(
        "a change with the length without a length",
        lambda m: partial(m.RotaryEmbedding, 4, ntk_factor=2.0),
        ValueError,
        "original_length must be given with long_frequencies or ntk_factor, got None",
    ),
    Case(
        "a long frequency too few",
        lambda m: partial(m.RotaryEmbedding, 4, original_length=8, long_frequencies=(1.0,)),
        ValueError,
        "long_frequencies must hold 2 numbers for rotary_dim=4, got 1",
    ),
    Case(
        "a factor too few",
        lambda m: partial(
            m.longrope_frequencies, 4, 9, short_factors=(1.0, 1.0), long_factors=(1.0,), original_length=8
        ),
        ValueError,
        "long_factors must hold 2 numbers for rotary_dim=4, got 1",
    ),
]


EVERY_HOLDER = {
    mechanism.module.name: mechanism.module
    for mechanism in CATALOGUE
    if "position" in inspect.signature(getattr(torch_attention, mechanism.module.name, build)).parameters
    and mechanism.module.name != "ScaledDotProductAttention"  # takes heads of any size
}


@pytest.mark.usefixtures("as_shipped")
class TestRefusals:
    @pytest.mark.parametrize("name", EVERY_HOLDER)
    def test_encoding_for_other_heads_raises_in_every_class(self, name):
        scheme = Part("RotaryEmbedding", {"head_dim": 94})
        refused = Part(name, {**EVERY_HOLDER[name].arguments, "position": scheme})
        texts = []
        for mirror, factory in (("torch_attention", {}), ("jax_attention", {"rngs": nnx.Rngs(0)})):
            with pytest.raises(ValueError, match="head_dim=94") as caught:
                build(refused, mirror, factory)
            texts.append(str(caught.value))
        assert texts[0] == texts[1]

    @pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
    def test_bad_input_raises(self, case):
        assert_refused(case)

    @pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.name)
    def test_bad_sizes_raise(self, case):
        assert_impossible(case)


@pytest.mark.slow
def test_scale_is_that_of_the_scores(rng):
    plain = in_torch(Part("MultiHeadSelfAttention", {"embed_dim": 12, "num_heads": 3}))
    for holder in ("MultiHeadSelfAttention", "CausalSelfAttention"):
        scaled, theirs = pair(Part(holder, {"embed_dim": 12, "num_heads": 3, "scale": 1.0}))
        assert_parity(scaled, theirs, rng.standard_normal((2, 5, 12)).astype(np.float32))
    across = {"query_dim": 12, "key_dim": 10, "embed_dim": 12, "num_heads": 3, "scale": 1.0}
    look = (rng.standard_normal((2, n, d)).astype(np.float32) for n, d in ((5, 12), (7, 10)))
    assert_parity(*pair(Part("MultiHeadCrossAttention", across)), *look)
    scaled = in_torch(Part("MultiHeadSelfAttention", {"embed_dim": 12, "num_heads": 3, "scale": 1.0}))
    x = heads(rng, 2, 5, 12)
    assert error(scaled(x).output.numpy(force=True), plain(x).output.numpy(force=True)) > 1e-3
    with torch.no_grad():
        for parameter in (scaled.q_proj.weight, scaled.q_proj.bias):
            parameter.div_(2.0)  # the square root of the 4 head features
    assert torch.allclose(scaled(x).output, plain(x).output, rtol=1e-12)


def test_every_encoding_is_in_both_mirrors():
    for mirror in MIRRORS.values():
        assert all(hasattr(mirror.names, part.name) for part in PARTS.values())
    assert jax_attention.positions.alibi_slopes(6) == alibi_slopes(6)
