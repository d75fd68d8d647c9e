"""Attention over images: visible positions, equal special cases, and bad input."""

from functools import partial
from importlib import import_module

import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge.catalogue import Mechanism, Part
from attention_bridge.catalogue.vision import VISION_FAMILY
from attention_bridge.oracles import vision as oracles
from attention_bridge.oracles.common import dot_product_attention, linear, merge_heads, split_heads
from attention_bridge.oracles.gradient import STEP
from attention_bridge.parity.comparison import assert_parity, error
from attention_bridge.parity.instances import build, inputs, jax_with, parameters, torch_module
from attention_bridge.parity.run import cotangent, named_outputs, on_platform, run_torch
from attention_bridge.weights import transfer
from parity_tests.helpers.built import collected
from parity_tests.helpers.refusals import MIRRORS, Case, assert_impossible, assert_refused

CLOSE = 1e-12  # of float64
SIZES = {"embed_dim": 6, "num_heads": 3}
WINDOWS = {**SIZES, "window_size": 3}
SHIFTED = {**WINDOWS, "shift": 1}
GRID = {**SIZES, "grid_size": (5, 4)}
PATCHES = {"image_size": (4, 6), "patch_size": (2, 3), "in_channels": 5, "embed_dim": 7}
ATTENTION = [f"{name}_proj.{kind}" for name in ("q", "k", "v", "out") for kind in ("weight", "bias")]


def weights_for(rng, name, **arguments):
    """Random float64 weights for a class, by their PyTorch names."""
    state = build(Part(name, arguments), "torch_attention", {"device": "meta"}).state_dict()
    return {key: 0.5 * rng.standard_normal(x.shape) for key, x in state.items()}


@collected
def results(
    name, weights, *args, call=lambda module, *args, **options: module(*args, **options), **arguments
):
    """Float64 outputs of the module of each mirror, by field of the result."""
    with on_platform("cpu", float64=True):
        for package, options in (
            ("torch_attention", {"dtype": torch.float64}),
            ("jax_attention", {"rngs": nnx.Rngs(0), "param_dtype": "float64"}),
        ):
            module = transfer(dict(weights), build(Part(name, arguments), package, options))
            module.eval()
            array = MIRRORS[package.partition("_")[0]].array
            found = named_outputs(call(module, *map(array, args)))
            yield {key: np.asarray(x.tolist()) for key, x in found.items()}


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, x in theirs.items():
            assert error(ours[name], x) < CLOSE, name


def changed_places(name, weights, x, place, **arguments):
    """The positions whose output changes when one position of the input changes, in each mirror."""
    other = x.copy()
    other[:, *place] += 1.0
    for before, after in zip(
        results(name, weights, x, **arguments), results(name, weights, other, **arguments), strict=True
    ):
        yield (before["output"] != after["output"]).any(axis=(0, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    "mechanism", [m for m in VISION_FAMILY if not m.masks], ids=lambda mechanism: mechanism.name
)
def test_gradients_without_a_mask_equal_the_oracle(mechanism: Mechanism, rng) -> None:
    """Derivatives along random directions, by complex steps: one evaluation of the oracle each."""
    weights, given = parameters(mechanism), inputs(mechanism, "none")
    found = run_torch(torch_module(mechanism, "float64"), given).gradients
    tensors = {**weights, **given}
    assert found.keys() == tensors.keys()
    scale = max(np.abs(x).max() for x in found.values())
    for name, tensor in tensors.items():
        for _ in range(3):
            direction = rng.standard_normal(tensor.shape)
            nudged = {**tensors, name: tensor + 1j * STEP * direction}
            outputs = mechanism.oracle({n: nudged[n] for n in weights}, **{n: nudged[n] for n in given})
            slope = sum(np.sum(cotangent(x.shape) * x.imag) for x in outputs) / STEP
            assert abs(slope - np.sum(found[name] * direction)) < CLOSE * scale * tensor.size, name


class TestViT:
    @pytest.mark.slow
    def test_patches_equal_the_oracle(self, rng):
        weights, image = weights_for(rng, "PatchEmbedding", **PATCHES), rng.standard_normal((2, 4, 6, 5))
        expected = oracles.patch_embedding(weights, image)
        for found in results("PatchEmbedding", weights, image, **PATCHES):
            assert found["output"].shape == (2, 1 + 2 * 2, 7)
            assert error(found["output"], expected) < CLOSE

    def test_patches_and_their_gradients_are_the_same_in_both(self, rng):
        ours = build(Part("PatchEmbedding", PATCHES), "torch_attention", {})
        theirs = jax_with(Part("PatchEmbedding", PATCHES), ours, {})
        assert_parity(ours, theirs, rng.standard_normal((2, 4, 6, 5)).astype(np.float32))

    def test_class_token_is_first_and_patches_follow_row_by_row(self, rng):
        weights, image = weights_for(rng, "PatchEmbedding", **PATCHES), rng.standard_normal((2, 4, 6, 5))
        other = image.copy()
        other[:, 3, 2] += 1.0  # the first patch of the second row
        before = results("PatchEmbedding", weights, image, **PATCHES)
        for one, two in zip(before, results("PatchEmbedding", weights, other, **PATCHES), strict=True):
            assert (one["output"] != two["output"]).any(axis=(0, 2)).tolist() == [False] * 3 + [True, False]

    @pytest.mark.slow
    def test_block_with_zero_output_projections_is_the_identity(self, rng):
        weights, x = weights_for(rng, "ViTBlock", **SIZES), rng.standard_normal((2, 5, 6))
        for name in ("attention.out_proj", "ffn.down_proj"):
            weights |= {
                f"{name}.weight": np.zeros_like(weights[f"{name}.weight"]),
                f"{name}.bias": np.zeros(6),
            }
        for found in results("ViTBlock", weights, x, **SIZES):
            assert np.array_equal(found["output"], x)


class TestWindows:
    @pytest.mark.slow
    def test_shift_of_zero_is_window_attention(self, rng):
        weights, x = weights_for(rng, "WindowAttention", **WINDOWS), rng.standard_normal((2, 4, 7, 6))
        shifted = {f"attention.{name}": w for name, w in weights.items()}
        assert_same(
            results("ShiftedWindowAttention", shifted, x, **WINDOWS, shift=0),
            results("WindowAttention", weights, x, **WINDOWS),
        )

    def test_default_shift_is_half_a_window(self):
        for mirror in MIRRORS.values():
            assert mirror.ShiftedWindowAttention(6, 3, 5).shift == 2

    @pytest.mark.slow
    @pytest.mark.parametrize("height", [2, 3])
    def test_grid_within_one_window_is_not_shifted(self, height, rng):
        weights, x = weights_for(rng, "WindowAttention", **WINDOWS), rng.standard_normal((2, height, 7, 6))
        shifted = {f"attention.{name}": w for name, w in weights.items()}
        assert_same(
            results("ShiftedWindowAttention", shifted, x, **SHIFTED),
            results("WindowAttention", weights, x, **WINDOWS),
        )

    @pytest.mark.slow
    def test_one_window_without_biases_is_multi_head_attention(self, rng):
        weights, x = weights_for(rng, "WindowAttention", **WINDOWS), rng.standard_normal((2, 3, 3, 6))
        weights["position_bias"][:] = 0.0
        plain = {name: weights[name] for name in ATTENTION}
        expected = results("MultiHeadSelfAttention", plain, x.reshape(2, 9, 6), **SIZES)
        for found, all_places in zip(
            results("WindowAttention", weights, x, **WINDOWS), expected, strict=True
        ):
            assert error(found["output"], all_places["output"].reshape(x.shape)) < CLOSE
            assert error(found["weights"][:, 0], all_places["weights"]) < CLOSE

    @pytest.mark.slow
    def test_position_is_visible_only_in_its_window(self, rng):
        weights, x = weights_for(rng, "WindowAttention", **WINDOWS), rng.standard_normal((2, 6, 6, 6))
        for changed in changed_places("WindowAttention", weights, x, (1, 4), **WINDOWS):
            assert {tuple(place) for place in np.argwhere(changed)} == {
                (y, c) for y in range(3) for c in range(3, 6)
            }

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("place", "rows", "columns"),
        [
            ((2, 3), (1, 4), (1, 4)),  # a window without wrapped positions
            ((0, 0), (0, 1), (0, 1)),  # the corner: its window contains the four corners of the grid
            ((5, 2), (4, 6), (1, 4)),  # the last two rows, with the first row wrapped below them
        ],
    )
    def test_shifted_window_crosses_window_borders_but_not_the_edge(self, place, rows, columns, rng):
        weights, x = weights_for(rng, "ShiftedWindowAttention", **SHIFTED), rng.standard_normal((2, 6, 6, 6))
        expected = {(y, c) for y in range(*rows) for c in range(*columns)}
        for changed in changed_places("ShiftedWindowAttention", weights, x, place, **SHIFTED):
            assert {tuple(place) for place in np.argwhere(changed)} == expected

    def test_shifted_window_without_regions_would_attend_across_the_edge(self, rng):
        weights, x = weights_for(rng, "WindowAttention", **WINDOWS), rng.standard_normal((2, 6, 6, 6))
        shifted = {f"attention.{name}": w for name, w in weights.items()}
        expected = results("ShiftedWindowAttention", shifted, x, **SHIFTED)
        rolled = results("WindowAttention", weights, np.roll(x, (-1, -1), (1, 2)), **WINDOWS)
        for found, right in zip(rolled, expected, strict=True):
            differs = np.roll(found["output"], (1, 1), (1, 2)) != right["output"]
            assert not differs[:, 1:4, 1:4].any()
            assert differs[:, 0].any(axis=(0, 2)).all()

    @pytest.mark.slow
    def test_grid_that_windows_do_not_tile_is_padded_with_visible_zeros(self, rng):
        weights, x = weights_for(rng, "ShiftedWindowAttention", **SHIFTED), rng.standard_normal((2, 4, 7, 6))
        padded = np.zeros((2, 6, 9, 6))
        padded[:, :4, :7] = x
        expected = results("ShiftedWindowAttention", weights, padded, **SHIFTED)
        for found, whole in zip(
            results("ShiftedWindowAttention", weights, x, **SHIFTED), expected, strict=True
        ):
            assert error(found["output"], whole["output"][:, :4, :7]) < CLOSE
            assert error(found["weights"], whole["weights"]) < CLOSE

    @pytest.mark.slow
    def test_masked_weights_and_fully_masked_rows_are_zero(self, rng):
        weights, x = weights_for(rng, "WindowAttention", **WINDOWS), rng.standard_normal((2, 6, 3, 6))
        mask = rng.random((2, 2, 3, 9, 9)) < 0.6
        mask[0, 1, :, 4] = False
        for found in results("WindowAttention", weights, x, mask, **WINDOWS):
            assert not found["weights"][~mask].any()
            assert error(found["output"][0, 4, 1], weights["out_proj.bias"]) < CLOSE
        module = build(Part("WindowAttention", WINDOWS), "torch_attention", {"dtype": torch.float64})
        run = run_torch(transfer(dict(weights), module), {"x": x, "mask": mask})
        assert all(np.isfinite(gradient).all() for gradient in run.gradients.values())

    @pytest.mark.parametrize("shape", [(9, 9), (2, 2, 9, 9), (1, 2, 1, 9, 9), (1, 1, 3, 1, 9)])
    def test_mask_of_any_rank_equals_the_full_mask(self, shape, rng):
        weights, x = weights_for(rng, "WindowAttention", **WINDOWS), rng.standard_normal((2, 6, 3, 6))
        mask = rng.random(shape) < 0.6
        full = np.broadcast_to(mask[:, :, None] if mask.ndim == 4 else mask, (2, 2, 3, 9, 9)).copy()
        assert_same(
            results("WindowAttention", weights, x, mask, **WINDOWS),
            results("WindowAttention", weights, x, full, **WINDOWS),
        )

    def test_reversed_position_bias_is_detected(self, rng):
        weights, x = weights_for(rng, "WindowAttention", **WINDOWS), rng.standard_normal((2, 6, 3, 6))
        reversed_table = {**weights, "position_bias": weights["position_bias"][::-1].copy()}
        expected = oracles.window_attention(weights, x, num_heads=3, window_size=3)[0]
        for found in results("WindowAttention", reversed_table, x, **WINDOWS):
            assert error(found["output"], expected) > 0.01


class TestCosineWindows:
    @pytest.mark.slow
    def test_longer_queries_and_keys_have_the_same_weights(self, rng):
        weights = weights_for(rng, "CosineWindowAttention", **SHIFTED)
        longer = weights | {name: 3.0 * w for name, w in weights.items() if name.startswith(("q_", "k_"))}
        x = rng.standard_normal((2, 4, 7, 6))
        assert_same(
            results("CosineWindowAttention", longer, x, **SHIFTED),
            results("CosineWindowAttention", weights, x, **SHIFTED),
        )

    @pytest.mark.slow
    def test_offsets_relative_to_the_pretrained_window_are_those_of_that_window(self):
        """Between neighbours they do not depend on the size of the window."""
        for mirror in ("torch", "jax"):
            vision = import_module(f"{mirror}_attention.vision.cosine_window")
            like = MIRRORS[mirror].array(np.zeros(1, np.float32))
            small, large = (
                np.asarray(vision.log_spaced_offsets(side, 3, like)).reshape(2 * side - 1, 2 * side - 1, 2)
                for side in (3, 5)
            )
            np.testing.assert_array_equal(small, large[2:-2, 2:-2])
            assert small[0, 4].tolist() == pytest.approx([-np.log(9) / np.log(8), np.log(9) / np.log(8)])

    @pytest.mark.slow
    def test_grid_within_one_window_is_shifted_too(self, rng):
        weights, x = weights_for(rng, "CosineWindowAttention", **SHIFTED), rng.standard_normal((2, 3, 3, 6))
        for changed in changed_places("CosineWindowAttention", weights, x, (0, 0), **SHIFTED):
            assert {tuple(place) for place in np.argwhere(changed)} == {(0, 0)}
        for changed in changed_places("CosineWindowAttention", weights, x, (1, 2), **SHIFTED):
            assert {tuple(place) for place in np.argwhere(changed)} == {(1, 1), (1, 2), (2, 1), (2, 2)}


class TestSpatialReduction:
    @pytest.mark.slow
    def test_reduction_of_one_is_multi_head_attention(self, rng):
        weights = weights_for(rng, "MultiHeadSelfAttention", **SIZES)
        x = rng.standard_normal((2, 4, 5, 6))
        expected = results("MultiHeadSelfAttention", weights, x.reshape(2, 20, 6), **SIZES)
        for found, all_places in zip(
            results("SpatialReductionAttention", weights, x, **SIZES, reduction=1), expected, strict=True
        ):
            assert error(found["output"], all_places["output"].reshape(x.shape)) < CLOSE
            assert error(found["weights"], all_places["weights"]) < CLOSE

    @pytest.mark.slow
    @pytest.mark.parametrize(("place", "count"), [((1, 1), 20), ((4, 0), 1)])
    def test_position_is_visible_to_all_unless_beyond_the_last_whole_patch(self, place, count, rng):
        arguments = {**SIZES, "reduction": 2}
        weights = weights_for(rng, "SpatialReductionAttention", **arguments)
        x = rng.standard_normal((2, 5, 4, 6))
        for changed in changed_places("SpatialReductionAttention", weights, x, place, **arguments):
            assert changed.sum() == count
            assert changed[place]


class TestAxial:
    @pytest.mark.slow
    def test_position_is_visible_in_its_row_and_column(self, rng):
        weights, x = weights_for(rng, "AxialAttention", **SIZES), rng.standard_normal((2, 5, 4, 6))
        for changed in changed_places("AxialAttention", weights, x, (3, 1), **SIZES):
            expected = np.zeros((5, 4), bool)
            expected[3, :] = expected[:, 1] = True
            assert np.array_equal(changed, expected)

    @pytest.mark.slow
    def test_single_row_is_multi_head_attention_plus_each_position_by_itself(self, rng):
        weights, x = weights_for(rng, "AxialAttention", **SIZES), rng.standard_normal((2, 1, 4, 6))
        down, across = (
            {
                name.removeprefix(f"{axis}_attention."): w
                for name, w in weights.items()
                if name.startswith(axis)
            }
            for axis in ("height", "width")
        )
        itself = linear(down, "out_proj", linear(down, "v_proj", x))
        rows = results("MultiHeadSelfAttention", across, x[:, 0], **SIZES)
        for found, row in zip(results("AxialAttention", weights, x, **SIZES), rows, strict=True):
            assert error(found["output"], row["output"][:, None] + itself) < CLOSE

    def test_dropout_masks_of_both_directions_replace_sampled_ones(self, rng):
        arguments = {**SIZES, "dropout": 0.5}
        weights, x = weights_for(rng, "AxialAttention", **SIZES), rng.standard_normal((2, 5, 4, 6))
        down_keep, across_keep = rng.random((2, 4, 3, 5, 5)) < 0.5, rng.random((2, 5, 3, 4, 4)) < 0.5

        def axial(module, x, height, width):
            keep = MIRRORS["torch" if isinstance(module, torch.nn.Module) else "jax"].AxialKeep(height, width)
            return module(x, dropout_keep=keep)

        def expected(axis, lines, keep):
            own = {name.removeprefix(f"{axis}_attention."): w for name, w in weights.items() if axis in name}
            heads = [split_heads(linear(own, f"{name}_proj", lines), 3) for name in "qkv"]
            mixed, _ = dot_product_attention(*heads, dropout_keep=keep, dropout_rate=0.5)
            return linear(own, "out_proj", merge_heads(mixed))

        columns = expected("height", x.swapaxes(1, 2).reshape(8, 5, 6), down_keep.reshape(8, 3, 5, 5))
        rows = expected("width", x.reshape(10, 4, 6), across_keep.reshape(10, 3, 4, 4))
        right = columns.reshape(2, 4, 5, 6).swapaxes(1, 2) + rows.reshape(2, 5, 4, 6)
        for found in results("AxialAttention", weights, x, down_keep, across_keep, call=axial, **arguments):
            assert error(found["output"], right) < CLOSE


class TestDecomposedPositions:
    @pytest.mark.slow
    def test_attention_without_positions_is_multi_head_attention(self, rng):
        weights, x = (
            weights_for(rng, "DecomposedPositionAttention", **GRID),
            rng.standard_normal((2, 5, 4, 6)),
        )
        weights |= {name: 0.0 * weights[name] for name in ("height_positions", "width_positions")}
        plain = {name: weights[name] for name in ATTENTION}
        expected = results("MultiHeadSelfAttention", plain, x.reshape(2, 20, 6), **SIZES)
        found = results("DecomposedPositionAttention", weights, x, **GRID)
        for ours, all_places in zip(found, expected, strict=True):
            assert error(ours["output"], all_places["output"].reshape(x.shape)) < CLOSE
            assert error(ours["weights"], all_places["weights"]) < CLOSE

    def test_positions_divided_by_the_root_of_head_dim_give_the_papers_equation(self, rng):
        """Equation 4 of MViTv2 scales scores and positions alike; the authors' code scales only the scores."""
        weights, x = (
            weights_for(rng, "DecomposedPositionAttention", **GRID),
            rng.standard_normal((2, 5, 4, 6)),
        )
        query, key = (split_heads(linear(weights, f"{name}_proj", x.reshape(2, 20, 6)), 3) for name in "qk")
        rows, columns = np.divmod(np.arange(20), 4)
        between = weights["height_positions"][rows[:, None] - rows + 4]
        between = between + weights["width_positions"][columns[:, None] - columns + 3]  # query key head_dim
        scores = np.einsum("bhqd,bhkd->bhqk", query, key) + np.einsum("bhqd,qkd->bhqk", query, between)
        by_paper = np.exp(scores / np.sqrt(2))
        by_paper /= by_paper.sum(-1, keepdims=True)
        divided = {name: w / np.sqrt(2) if name.endswith("positions") else w for name, w in weights.items()}
        for found in results("DecomposedPositionAttention", divided, x, **GRID):
            assert error(found["weights"], by_paper) < CLOSE
        for found in results("DecomposedPositionAttention", weights, x, **GRID):
            assert error(found["weights"], by_paper) > 0.01

    @pytest.mark.slow
    def test_score_depends_only_on_the_distance(self, rng):
        """With the same input everywhere, equal distances have equal scores: ratios of weights repeat."""
        weights = weights_for(rng, "DecomposedPositionAttention", **GRID)
        x = np.broadcast_to(rng.standard_normal(6), (1, 5, 4, 6)).copy()
        for found in results("DecomposedPositionAttention", weights, x, **GRID):
            grid = np.log(found["weights"][0]).reshape(3, 5, 4, 5, 4)  # heads, then query and key positions
            one, other = (
                grid[:, 1, 1, 2, 2] - grid[:, 1, 1, 0, 1],
                grid[:, 3, 2, 4, 3] - grid[:, 3, 2, 2, 2],
            )
            assert error(one, other) < CLOSE


def attend(m, name, *shape, mask=None, keep=None, **arguments):
    """A call of a class for a grid with 3 heads and 6 features."""
    options = {} if keep is None else {"dropout_keep": keep}
    positional = () if mask is None else (mask,)
    return partial(getattr(m, name)(6, 3, **arguments), m.nan(*shape), *positional, **options)


NOT_BOOLEAN = (
    "{} must be boolean (True: the query attends to the key), got {}; "
    ".bool() or .astype(bool) converts it, additive values go in bias"
)
GRIDS = {
    "WindowAttention": {"window_size": 3},
    "ShiftedWindowAttention": {"window_size": 3, "shift": 1},
    "CosineWindowAttention": {"window_size": 3, "shift": 1},
    "SpatialReductionAttention": {"reduction": 2},
    "AxialAttention": {},
    "DecomposedPositionAttention": {"grid_size": (4, 7)},
}
KEEPS = {
    "WindowAttention": (2, 6, 3, 9, 9),
    "ShiftedWindowAttention": (2, 6, 3, 9, 9),
    "CosineWindowAttention": (2, 6, 3, 9, 9),
    "SpatialReductionAttention": (2, 3, 28, 6),
    "DecomposedPositionAttention": (2, 3, 28, 28),
}

REFUSED = [
    *(
        Case(
            f"{name} of {fault}",
            lambda m, name=name, shape=shape: attend(m, name, *shape, **GRIDS[name]),
            ValueError,
            f"x must have shape (batch, height, width, 6), got {shape}",
        )
        for name in GRIDS
        for fault, shape in {"a sequence": (2, 28, 6), "other features": (2, 4, 7, 5)}.items()
    ),
    *(
        Case(
            f"{name} with a dropout mask of another shape",
            lambda m, name=name: attend(m, name, 2, 4, 7, 6, keep=m.ones(2, 3), **GRIDS[name]),
            ValueError,
            f"dropout_keep must have shape {shape}, got (2, 3)",
        )
        for name, shape in KEEPS.items()
    ),
    *(
        Case(
            f"{name} with a dropout mask that is not boolean",
            lambda m, name=name, shape=shape: attend(
                m, name, 2, 4, 7, 6, keep=m.ones(*shape, dtype=np.int32), **GRIDS[name]
            ),
            TypeError,
            "dropout_keep must be boolean (True: the entry is kept), got int32",
        )
        for name, shape in KEEPS.items()
    ),
    Case(
        "AxialAttention with a dropout mask of its columns of another shape",
        lambda m: attend(m, "AxialAttention", 2, 4, 7, 6, keep=m.AxialKeep(height=m.ones(2, 4, 3, 7, 7))),
        ValueError,
        "dropout_keep must have shape (2, 7, 3, 4, 4), got (2, 4, 3, 7, 7)",
    ),
    Case(
        "windows with a mask that is not boolean",
        lambda m: attend(
            m, "WindowAttention", 2, 4, 7, 6, mask=m.ones(9, 9, dtype=np.float32), window_size=3
        ),
        TypeError,
        NOT_BOOLEAN.format("mask", "float32"),
    ),
    Case(
        "windows with a mask of another shape",
        lambda m: attend(m, "WindowAttention", 2, 4, 7, 6, mask=m.ones(6, 9, 9), window_size=3),
        ValueError,
        "mask must have shape (query, key) = (9, 9), (batch, query, key) = (2, 6, 9, 9) or "
        "(batch|1, heads|1, query|1, key|1) = (2, 6, 3, 9, 9), got (6, 9, 9)",
    ),
    Case(
        "a grid smaller than a patch",
        lambda m: attend(m, "SpatialReductionAttention", 2, 4, 1, 6, reduction=2),
        ValueError,
        "x must be at least reduction=2 high and wide, got 4 and 1",
    ),
    Case(
        "a grid that there are no positions for",
        lambda m: attend(m, "DecomposedPositionAttention", 2, 7, 4, 6, grid_size=(4, 7)),
        ValueError,
        "x must have the height and width of the position tables, grid_size=(4, 7), got (7, 4)",
    ),
    Case(
        "an image of another size",
        lambda m: partial(m.PatchEmbedding((4, 6), (2, 3), 5, 7), m.nan(2, 6, 4, 5)),
        ValueError,
        "image must have shape (batch, 4, 6, 5), got (2, 6, 4, 5)",
    ),
    Case(
        "a block with a mask that is not boolean",
        lambda m: partial(m.ViTBlock(6, 3), m.nan(2, 5, 6), m.ones(5, 5, dtype=np.int32)),
        TypeError,
        NOT_BOOLEAN.format("mask", "int32"),
    ),
    Case(
        "a block given other features",
        lambda m: partial(m.ViTBlock(6, 3), m.nan(2, 5, 4)),
        ValueError,
        "x must have shape (batch, length, 6), got (2, 5, 4)",
    ),
]
IMPOSSIBLE = [
    Case(
        "an image smaller than a patch",
        lambda m: partial(m.PatchEmbedding, (4, 6), (2, 7), 5, 7),
        ValueError,
        "image_size must hold a patch, got an image of (4, 6) and a patch of (2, 7)",
    ),
    *(
        Case(
            f"a shift of {shift}",
            lambda m, shift=shift: partial(m.ShiftedWindowAttention, 6, 3, 4, shift),
            ValueError,
            text,
        )
        for shift, text in (
            (-1, "shift must be at least 0, got -1"),
            (4, "shift must be at least 0 and below window_size=4, got 4"),
        )
    ),
    Case(
        "an empty window",
        lambda m: partial(m.WindowAttention, 6, 3, 0),
        ValueError,
        "window_size must be at least 1, got 0",
    ),
    Case(
        "an empty patch",
        lambda m: partial(m.SpatialReductionAttention, 6, 3, 0),
        ValueError,
        "reduction must be at least 1, got 0",
    ),
    Case(
        "an empty grid",
        lambda m: partial(m.DecomposedPositionAttention, 6, 3, (4, 0)),
        ValueError,
        "grid_size must be at least 1, got 0",
    ),
    *(
        Case(
            f"{name} whose heads do not divide the features",
            lambda m, name=name: partial(getattr(m, name), 6, 4, **GRIDS[name]),
            ValueError,
            "embed_dim must be divisible by num_heads, got embed_dim=6 and num_heads=4",
        )
        for name in GRIDS
    ),
]


@pytest.mark.usefixtures("as_shipped")
class TestRefusals:
    @pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
    def test_bad_input_raises_the_same_error_before_any_arithmetic(self, case):
        assert_refused(case)

    @pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.name)
    def test_bad_arguments_raise_the_same_error(self, case):
        assert_impossible(case)
