"""Flex attention: the same score and mask functions in both mirrors, and the tiles that are skipped."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_attention.ops
import torch_attention.ops
from attention_bridge import oracles
from attention_bridge.parity.comparison import tolerances

BATCH, HEADS, KV_HEADS, QUERY, KEY, HEAD_DIM, VALUE_DIM = 2, 6, 3, 11, 17, 4, 5
SHAPES = {
    "query": (BATCH, HEADS, QUERY, HEAD_DIM),
    "key": (BATCH, KV_HEADS, KEY, HEAD_DIM),
    "value": (BATCH, KV_HEADS, KEY, VALUE_DIM),
    "slopes": (HEADS,),
    "table": (QUERY, KEY),
}
EXACT = 1e-12
MIRRORS = {
    "torch": SimpleNamespace(ops=torch_attention.ops, array=torch.from_numpy),
    "jax": SimpleNamespace(ops=jax_attention.ops, array=jnp.asarray),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    for mirror in MIRRORS.values():
        for file in (mirror.ops.flex, mirror.ops.blockwise):
            monkeypatch.setattr(file, "ROWS", 8)
            monkeypatch.setattr(file, "COLUMNS", 6)


@pytest.fixture(params=MIRRORS)
def mirror(request):
    with jax.enable_x64(True):
        yield MIRRORS[request.param]


def draw(rng):
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


def documents(mirror, rng_seed=4):
    return mirror.array(np.sort(np.random.default_rng(rng_seed).integers(0, 3, KEY)))


def attend(mirror, arrays, **options):
    """Attention with learned slopes and a learned table, within documents; causal in all heads but one."""
    document, slopes, table = documents(mirror), arrays["slopes"], arrays["table"]
    mask = mirror.ops.create_block_mask(
        mirror.ops.flex.and_masks(
            lambda b, h, i, j: (document[i] == document[j]) & (i != 3),
            mirror.ops.flex.or_masks(lambda b, h, i, j: j <= i + 2, lambda b, h, i, j: h == 2),
        ),
        None,
        HEADS,
        QUERY,
        KEY,
        (4, 3),
    )
    return mirror.ops.flex_attention(
        arrays["query"],
        arrays["key"],
        arrays["value"],
        lambda score, b, h, i, j: score - slopes[h] * (i - j) + table[i, j],
        mask,
        enable_gqa=True,
        **options,
    )


def visible():
    document = documents(SimpleNamespace(array=lambda x: x))
    i, j = np.arange(QUERY)[:, None], np.arange(KEY)
    causal = np.broadcast_to(j <= i + 2, (HEADS, QUERY, KEY)) | (np.arange(HEADS) == 2)[:, None, None]
    return (document[i] == document[j]) & (i != 3) & causal


def reference(arrays):
    """The oracle's output, with the score function as a bias and the mask functions as a mask."""
    i, j = np.arange(QUERY)[:, None], np.arange(KEY)
    bias = -arrays["slopes"][:, None, None] * (i - j) + arrays["table"]
    mask = np.broadcast_to(visible(), (BATCH, HEADS, QUERY, KEY))
    whole = np.broadcast_to(bias, mask.shape)
    return oracles.dot_product_attention(arrays["query"], arrays["key"], arrays["value"], whole, mask)


def gradients(mirror, arrays, cotangent):
    if mirror is MIRRORS["torch"]:
        leaves = {name: torch.from_numpy(x).requires_grad_() for name, x in arrays.items()}
        found = torch.autograd.grad(
            (attend(mirror, leaves) * torch.from_numpy(cotangent)).sum(), list(leaves.values())
        )
        return dict(zip(leaves, (x.numpy() for x in found), strict=True))
    loss = jax.jit(jax.grad(lambda arrays: (attend(mirror, arrays) * cotangent).sum()))
    return {name: np.asarray(x) for name, x in loss({n: jnp.asarray(x) for n, x in arrays.items()}).items()}


def error(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


class TestOneFunctionForBoth:
    @pytest.mark.slow
    def test_output_equals_the_oracle_with_the_same_bias_and_mask(self, mirror, rng):
        arrays = draw(rng)
        expected, _ = reference(arrays)
        found = attend(mirror, {name: mirror.array(x) for name, x in arrays.items()})
        assert error(found, expected) <= EXACT

    @pytest.mark.slow
    def test_gradients_equal_the_oracle_including_captured_arrays(self, mirror, rng):
        arrays = draw(rng)
        cotangent = rng.standard_normal((BATCH, HEADS, QUERY, VALUE_DIM))
        expected = oracles.gradient(lambda tensors: [reference(tensors)[0]], arrays, [cotangent])
        for name, gradient in gradients(mirror, arrays, cotangent).items():
            assert error(gradient, expected[name]) <= EXACT, name

    @pytest.mark.slow
    def test_float32_output_is_within_its_tolerance(self, mirror, rng):
        arrays = {name: x.astype(np.float32) for name, x in draw(rng).items()}
        expected, _ = reference({name: x.astype(np.float64) for name, x in arrays.items()})
        found = attend(mirror, {name: mirror.array(x) for name, x in arrays.items()})
        assert str(found.dtype).endswith("float32")
        assert error(found, expected) <= tolerances("float32", HEAD_DIM + KEY)["output"]

    def test_logsumexp_of_a_fully_masked_row_is_minus_infinity(self, mirror, rng):
        arrays = draw(rng)
        output, log_sum = attend(
            mirror, {name: mirror.array(x) for name, x in arrays.items()}, return_lse=True
        )
        empty = np.broadcast_to(~visible().any(-1), (BATCH, HEADS, QUERY))
        assert empty.any()
        assert np.array_equal(np.isneginf(np.asarray(log_sum)), empty)
        assert not np.asarray(output)[empty].any()

    @pytest.mark.slow
    def test_flex_without_functions_is_dot_product_attention(self, mirror, rng):
        arrays = {name: mirror.array(x) for name, x in draw(rng).items() if name in ("query", "key", "value")}
        found = mirror.ops.flex_attention(**arrays, scale=0.3, enable_gqa=True)
        expected = mirror.ops.dot_product_attention(**arrays, scale=0.3, implementation="reference")
        assert error(found, np.asarray(expected)) <= EXACT


class TestBlocks:
    @pytest.mark.parametrize("block_size", [1, 3, (4, 3), 32])
    def test_block_is_live_if_any_pair_is_visible_and_full_if_all_are(self, mirror, block_size):
        i, j = np.arange(QUERY)[:, None], np.arange(KEY)
        seen = (j <= i + 1) & (j > i - 6)
        made = mirror.ops.create_block_mask(
            lambda b, h, i, j: (j <= i + 1) & (j > i - 6), None, None, QUERY, KEY, block_size
        )
        rows, columns = made.block_size
        for row in range(made.live.shape[2]):
            for column in range(made.live.shape[3]):
                part = seen[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
                assert bool(made.live[0, 0, row, column]) == part.any()
                assert bool(made.full[0, 0, row, column]) == part.all()

    @pytest.mark.slow
    def test_dead_tiles_are_never_read(self, mirror, rng):
        """A weight of zero times NaN is NaN: the result is finite only if dead tiles are skipped."""
        arrays = {n: rng.standard_normal((1, 2, 24, 4)) for n in ("query", "key", "value")}
        arrays["key"][:, :, 12:], arrays["value"][:, :, 12:] = np.nan, np.nan
        given = {name: mirror.array(x) for name, x in arrays.items()}
        causal = mirror.ops.dot_product_attention(**given, is_causal=True, implementation="blockwise")
        mask = mirror.ops.create_block_mask(lambda b, h, i, j: j <= i, None, None, 24, 24, 2)
        flexible = mirror.ops.flex_attention(**given, block_mask=mask)
        shown = mirror.array(np.tril(np.ones((24, 24), bool)))
        masked = mirror.ops.dot_product_attention(**given, mask=shown, implementation="blockwise")
        for found in (causal, flexible, masked):
            first = np.asarray(found)[:, :, :8]
            assert np.isfinite(first).all()
            assert first.any()

    def test_window_skips_earlier_tiles(self, mirror, rng):
        arrays = {n: rng.standard_normal((1, 2, 24, 4)) for n in ("query", "key", "value")}
        arrays["key"][:, :, :6], arrays["value"][:, :, :6] = np.nan, np.nan
        given = {name: mirror.array(x) for name, x in arrays.items()}
        found = mirror.ops.dot_product_attention(
            **given, is_causal=True, window=4, implementation="blockwise"
        )
        assert np.isfinite(np.asarray(found)[:, :, 16:]).all()


class TestRefusals:
    def refused(self, call):
        """Assert that both mirrors raise the same message, and return it."""
        sentences = []
        for mirror in MIRRORS.values():
            arrays = {n: mirror.array(np.zeros(SHAPES[n], np.float32)) for n in ("query", "key", "value")}
            with pytest.raises(ValueError) as refusal:
                call(mirror.ops, arrays)
            sentences.append(str(refusal.value))
        assert sentences[0] == sentences[1]
        return sentences[0]

    def test_fewer_key_heads_need_enable_gqa(self):
        assert self.refused(lambda ops, given: ops.flex_attention(**given)) == (
            "query and key must have the same heads without enable_gqa, got 6 and 3"
        )

    def test_block_mask_of_other_lengths_raises(self):
        def call(ops, given):
            mask = ops.create_block_mask(lambda b, h, i, j: j <= i, None, None, 5, KEY)
            ops.flex_attention(**given, block_mask=mask, enable_gqa=True)

        assert self.refused(call) == "block_mask must be of lengths (11, 17), got (5, 17)"

    def test_block_mask_of_other_heads_raises(self):
        def call(ops, given):
            mask = ops.create_block_mask(lambda b, h, i, j: j <= i, None, 4, QUERY, KEY)
            ops.flex_attention(**given, block_mask=mask, enable_gqa=True)

        assert self.refused(call) == "block_mask must be of (batch|1, heads|1) = (2, 6), got (1, 4)"

    def test_block_size_of_zero_raises(self):
        def call(ops, given):
            ops.create_block_mask(lambda b, h, i, j: j <= i, None, None, QUERY, KEY, 0)

        assert self.refused(call) == "BLOCK_SIZE must be at least 1, got 0"

    def test_parameters_of_a_score_module_get_gradients(self):
        class Slopes(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.slopes = torch.nn.Parameter(torch.ones(HEADS))

            def forward(self, score, b, h, i, j):
                return score - self.slopes[h] * (i - j)

        query, slopes = torch.rand(SHAPES["query"]), Slopes()
        torch_attention.ops.flex_attention(query, query, query, slopes).sum().backward()
        assert slopes.slopes.grad.abs().min() > 0
