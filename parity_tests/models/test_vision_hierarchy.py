"""Hierarchical vision models: grids of patches, merging and windows; against NumPy in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention.models
import torch_attention.models
from attention_bridge.oracles.common import layer_norm, linear, scope
from attention_bridge.oracles.vision import cosine_window_attention, window_attention
from attention_bridge.parity.comparison import error
from attention_bridge.weights import transfer
from parity_tests.helpers.refusals import Case, assert_impossible, assert_refused

CLOSE = 1e-12  # of float64
MODELS = {"torch": torch_attention.models, "jax": jax_attention.models}


def windows(m, positions=False):
    """Two stages of windows: patches of 2 by 3 pixels, and merged patches."""
    norm = m.Part("layer_norm")
    layer = m.LayerSpec(
        m.Part("ShiftedWindowAttention", {"num_heads": 3, "window_size": 2, "shift": 1}),
        m.Part("FeedForward", {"ffn_dim": 8, "activation": "relu"}),
        norm=norm,
    )
    merged = m.LayerSpec(None, m.Part("FeedForward", {"ffn_dim": 5, "activation": "relu"}), norm=norm)
    patches = m.Part("PatchGrid", {"patch_size": (2, 3), "positions": positions})
    stages = (m.StageSpec(6, patches, (layer,)), m.StageSpec(7, m.Part("PatchMerging"), (merged,)))
    return m.VisionHierarchySpec((8, 12), 5, stages, norm, m.Part("MeanPooling"))


def cosine_windows(m):
    """The stages of `windows` as in Swin v2: cosine scores, norms after the sublayers and after the merging."""
    norm = m.Part("layer_norm")
    attention = {"num_heads": 3, "window_size": 2, "shift": 1, "pretrained_window": 4, "position_dim": 9}
    layer = m.LayerSpec(
        m.Part("CosineWindowAttention", attention),
        m.Part("FeedForward", {"ffn_dim": 8, "activation": "relu"}),
        "output",
        norm,
    )
    patches = m.Part("PatchGrid", {"patch_size": (2, 3)})
    merged = m.LayerSpec(None, m.Part("FeedForward", {"ffn_dim": 5, "activation": "relu"}), norm=norm)
    merging = m.Part("PatchMerging", {"norm_last": True})
    stages = (m.StageSpec(6, patches, (layer,)), m.StageSpec(7, merging, (merged,)))
    return m.VisionHierarchySpec((8, 12), 5, stages, norm)


def outputs(spec, rng, image):
    """The results of each mirror in float64 with the same random weights, and the weights."""
    shapes = torch_attention.models.VisionHierarchy(spec(MODELS["torch"]), device="meta").state_dict()
    weights = {name: 0.5 * rng.standard_normal(x.shape) for name, x in shapes.items()}
    model = torch_attention.models.VisionHierarchy(spec(MODELS["torch"]), dtype=torch.float64)
    found = [transfer(weights, model)(torch.from_numpy(image), need_hidden_states=True)]
    with jax.enable_x64(True):
        other = jax_attention.models.VisionHierarchy(
            spec(MODELS["jax"]), rngs=nnx.Rngs(0), param_dtype=jnp.float64
        )
        found.append(transfer(weights, other)(jnp.asarray(image), need_hidden_states=True))
    arrays = [x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in _arrays(found)]
    half = len(arrays) // 2
    return weights, arrays[:half], arrays[half:]


def _arrays(found):
    for each in found:
        yield from (each.last_hidden_state, *each.hidden_states, *each.feature_maps)


def embedded(weights, image):
    """The grid of 3 by 5 patches of 2 by 3 pixels, padded, after its norm."""
    padded = np.pad(image, ((0, 0), (0, 1), (0, 1), (0, 0)))
    patches = padded.reshape(2, 3, 2, 5, 3, 5).transpose(0, 1, 3, 2, 4, 5)  # batch y x r c channel
    kernel, bias = (weights[f"embedding.patch_proj.{name}"] for name in ("weight", "bias"))
    return layer_norm(weights, "embedding.norm", np.einsum("byxrci,oirc->byxo", patches, kernel) + bias, 1e-5)


def corners(x):
    """The 2 by 2 positions that are merged, of a grid padded to an even size."""
    x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    return np.concatenate([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], axis=-1)


def hidden(weights, x):
    """The feed-forward network with ReLU."""
    return linear(weights, "ffn.down_proj", np.maximum(linear(weights, "ffn.up_proj", x), 0.0))


def fed(weights, x):
    """The feed-forward sublayer, after its norm."""
    return x + hidden(weights, layer_norm(weights, "ffn_norm", x, 1e-5))


class TestWindows:
    def test_stages_equal_numpy_with_padded_patches_windows_and_merging(self, rng):
        image = rng.standard_normal((2, 5, 14, 5))  # 3 by 5 patches, padded
        weights, *both = outputs(windows, rng, image)
        first, second = (scope(weights, f"stages.{n}") for n in (0, 1))
        states = [embedded(first, image)]
        layer = scope(first, "layers.0")
        normed = layer_norm(layer, "attention_norm", states[0], 1e-5)
        options = {"num_heads": 3, "window_size": 2, "shift": 1}
        x = fed(layer, states[0] + window_attention(scope(layer, "attention"), normed, **options)[0])
        maps, x = [x], layer_norm(second, "embedding.norm", corners(x), 1e-5)
        states.append(x @ second["embedding.merge_proj.weight"].T)
        states.append(fed(scope(second, "layers.0"), states[1]))
        maps.append(states[-1])
        last = layer_norm(weights, "final_norm", states[-1], 1e-5).reshape(2, 6, 7)
        for found in both:
            for ours, expected in zip(found, (last, *states, *maps), strict=True):
                assert error(ours, expected) < CLOSE

    def test_norms_of_sublayers_and_merging_come_last_in_cosine_windows(self, rng):
        image = rng.standard_normal((2, 5, 14, 5))
        weights, *both = outputs(cosine_windows, rng, image)
        first, second = (scope(weights, f"stages.{n}") for n in (0, 1))
        layer, states = scope(first, "layers.0"), [embedded(first, image)]
        options = {"num_heads": 3, "window_size": 2, "shift": 1, "pretrained_window": 4}
        x = cosine_window_attention(scope(layer, "attention"), states[0], **options)[0]
        x = states[0] + layer_norm(layer, "attention_output_norm", x, 1e-5)
        x = x + layer_norm(layer, "ffn_output_norm", hidden(layer, x), 1e-5)
        merged = corners(x) @ second["embedding.merge_proj.weight"].T
        states.append(layer_norm(second, "embedding.norm", merged, 1e-5))
        states.append(fed(scope(second, "layers.0"), states[1]))
        last = layer_norm(weights, "final_norm", states[-1], 1e-5).reshape(2, 6, 7)
        for found in both:
            for ours, expected in zip(found, (last, *states, x, states[-1]), strict=True):
                assert error(ours, expected) < CLOSE

    def test_positions_are_added_row_by_row(self, rng):
        def placed(m):
            return windows(m, positions=True)

        weights, found, other = outputs(placed, rng, rng.standard_normal((2, 8, 12, 5)))
        bare = {name: x for name, x in weights.items() if not name.endswith("positions")}
        model = torch_attention.models.VisionHierarchy(windows(MODELS["torch"]), dtype=torch.float64)
        transfer(bare, model)
        assert error(found[1], other[1]) < CLOSE
        assert weights["stages.0.embedding.positions"].shape == (16, 6)

    def test_pooled_output_is_the_mean_and_a_backbone_has_none(self, rng):
        for models, array, factory in (
            (MODELS["torch"], torch.from_numpy, {}),
            (MODELS["jax"], jnp.asarray, {"rngs": nnx.Rngs(0)}),
        ):
            image = array(rng.standard_normal((2, 8, 12, 5)).astype(np.float32))
            found = models.VisionHierarchy(windows(models), **factory)(image)
            expected = np.asarray(found.last_hidden_state.tolist()).mean(axis=1)
            np.testing.assert_allclose(np.asarray(found.pooled.tolist()), expected, atol=1e-6)
            head = models.Part(
                "SequenceClassifier", {"num_classes": 4, "pooling": models.Part("MeanPooling")}
            )
            described = models.TaskSpec(windows(models), head)
            assert models.TaskSpec.from_dict(described.to_dict()) == described
            task = models.TaskModel(described, **factory)
            assert task.backbone.pooling is None
            assert task(image).logits.shape == (2, 4)


REFUSED = [
    Case(
        "an image with other channels",
        lambda m: partial(m.VisionHierarchy(windows(m)), m.nan(2, 8, 12, 3)),
        ValueError,
        "image must have shape (batch, height, width, 5), got (2, 8, 12, 3)",
    ),
    Case(
        "an image of another size than the positions",
        lambda m: partial(m.VisionHierarchy(windows(m, positions=True)), m.nan(2, 8, 9, 5)),
        ValueError,
        "image must have the size (8, 12) of the positions, got (8, 9)",
    ),
]


def impossible(m, **changed):
    """A stage with a changed layer, embedding or norm."""
    layer = m.LayerSpec(m.Part("WindowAttention", {"num_heads": 2, "window_size": 3}))
    given = {"embed_dim": 4, "embedding": m.Part("PatchGrid", {"patch_size": (2, 2)}), "layers": (layer,)}
    return m.VisionHierarchy(m.VisionHierarchySpec((8, 12), 5, (m.StageSpec(**{**given, **changed}),)))


IMPOSSIBLE = [
    Case(
        "a mixer of sequences",
        lambda m: (
            lambda: impossible(m, layers=(m.LayerSpec(m.Part("MultiHeadSelfAttention", {"num_heads": 2})),))
        ),
        ValueError,
        "mixer must be attention over a grid, such as ShiftedWindowAttention, got MultiHeadSelfAttention",
    ),
    Case(
        "an embedding that is none",
        lambda m: lambda: impossible(m, embedding=m.Part("FeedForward", {"ffn_dim": 3})),
        ValueError,
        "embedding must be an embedding of a grid, such as PatchGrid or PatchMerging, got FeedForward",
    ),
    Case(
        "positions on images that patches do not tile",
        lambda m: (
            lambda: impossible(m, embedding=m.Part("PatchGrid", {"patch_size": (3, 2), "positions": True}))
        ),
        ValueError,
        "image_size must be a multiple of patch_size=(3, 2) for positions, got (8, 12)",
    ),
    Case(
        "keys of another layer",
        lambda m: (
            lambda: impossible(
                m,
                layers=(
                    m.LayerSpec(m.Part("WindowAttention", {"num_heads": 2, "window_size": 3}), kv_layer=0),
                ),
            )
        ),
        ValueError,
        "kv_layer must be None in a stage, got 0",
    ),
    Case(
        "no stages",
        lambda m: lambda: m.VisionHierarchySpec((8, 12), 5, ()),
        ValueError,
        "stages must be at least 1, got 0",
    ),
    Case(
        "no layers",
        lambda m: lambda: impossible(m, layers=()),
        ValueError,
        "layers must be at least 1, got 0",
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
