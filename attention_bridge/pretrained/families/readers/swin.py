"""Readers of Swin and Swin v2, hierarchies of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.describe import layer_spec
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, MOST_LAYERS, Fields
from attention_bridge.pretrained.families.heads import image_head
from attention_bridge.pretrained.families.readers.images import image_pair
from attention_bridge.pretrained.families.stage_fields import hidden_size, stage_sizes
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_swin import HF_SWIN, MOST_STAGES, without_biases
from attention_bridge.weights.layouts.hf_swinv2 import HF_SWINV2, HF_SWINV2_UNBIASED

# Fields that the reference computes from others or uses in training or pretraining alone.
UNUSED = (
    "drop_path_rate", "hidden_size", "num_hidden_layers", "num_layers", "path_norm", "out_features", "out_indices",
    "stage_names",
)  # fmt: skip
# The last norm in files and in the mirrors; `Swinv2Backbone` has none.
FINAL_NORM = ("layernorm.weight", "final_norm.weight", "final_norm.scale")
PATCHES_EPS = 1e-5  # of the norms of patches; layer_norm_eps is for the layers
Windows = Callable[[int, int], Part]  # the attention of a stage, by the number of the stage and of the layer


def read_swin(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Swin configuration (Liu et al. 2021): shifted windows, with a learned bias for each relative position."""
    sizes = _sizes(fields)

    def windows(stage: int, layer: int) -> Part:
        shifted = {"window_size": sizes["window"], "shift": sizes["window"] // 2 if layer % 2 else 0}
        return Part("ShiftedWindowAttention", {"num_heads": sizes["num_heads"][stage], **shifted})

    layout = HF_SWIN if sizes["bias"] else without_biases(HF_SWIN, "qkv")
    return _reading(sizes, windows, "pre", layout, norm_last=False)


def read_swinv2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Swin v2 configuration (Liu et al. 2022): cosine windows, norms after the sublayers."""
    fields.only("use_absolute_embeddings", False)  # the reference has one vector too many and fails
    sizes = _sizes(fields)
    trained = stage_sizes(
        fields, "pretrained_window_sizes", most=MOST_STAGES, stages=len(sizes["depths"]), least=0
    )
    rows = sizes["image_size"][0] // sizes["patch_size"][0]
    if rows >> (len(trained) - 1) == 0:
        raise CheckpointError(
            f"{fields.source} must have an image_size with a patch for each of {len(trained)} stages, "
            f"got {sizes['image_size']}"
        )
    if 1 in trained:
        raise CheckpointError(
            f"{fields.source} must have pretrained_window_sizes of 0 or at least 2, because the reference divides by "
            f"one less, got {list(trained)}"
        )

    def windows(stage: int, layer: int) -> Part:
        side = min(
            sizes["window"], rows >> stage
        )  # the reference looks at the height of the configured images
        moves = layer % 2 and rows >> stage > side
        given = {
            "num_heads": sizes["num_heads"][stage],
            "window_size": side,
            "shift": sizes["window"] // 2 if moves else 0,
        }
        return Part("CosineWindowAttention", {**given, "pretrained_window": trained[stage] or None})

    layout = HF_SWINV2 if sizes["bias"] else HF_SWINV2_UNBIASED
    backbone = bool(tensors) and not any(tensors.ends_with(name) for name in FINAL_NORM)
    return _reading(sizes, windows, "output", layout, norm_last=True, backbone=backbone)


def _sizes(fields: Fields) -> dict[str, Any]:
    """The sizes of a hierarchy of windows."""
    fields.raw(*UNUSED)
    depths = stage_sizes(fields, "depths", most=MOST_STAGES, largest=MOST_LAYERS)
    sizes: dict[str, Any] = {
        "depths": depths,
        "num_heads": stage_sizes(fields, "num_heads", most=MOST_STAGES, stages=len(depths)),
        "embed_dim": fields.size("embed_dim", default=96),
        "window": fields.size("window_size", default=7),
        "eps": fields.number("layer_norm_eps", default=1e-5),
        "bias": fields.flag("qkv_bias", True),
        "image_size": image_pair(fields, "image_size", 224),
        "patch_size": image_pair(fields, "patch_size", 4),
        "in_channels": fields.size("num_channels", default=3),
        "mlp_ratio": fields.number("mlp_ratio", default=4.0),
        "activation": fields.word("hidden_act", words=ACTIVATIONS, default="gelu"),
        "positions": fields.flag("use_absolute_embeddings", False),
    }
    for n, num_heads in enumerate(sizes["num_heads"]):
        fields.divides("embed_dim", sizes["embed_dim"] * 2**n, "num_heads", num_heads)
    hidden_size(fields, "mlp_ratio", sizes["mlp_ratio"], sizes["embed_dim"])
    if sizes["positions"] and any(
        size % patch for size, patch in zip(sizes["image_size"], sizes["patch_size"], strict=True)
    ):
        raise CheckpointError(
            f"{fields.source} must have an image_size that patch_size divides for use_absolute_embeddings, "
            f"got {sizes['image_size']} and {sizes['patch_size']}"
        )
    return sizes


def _reading(
    sizes: dict[str, Any],
    windows: Windows,
    arrangement: str,
    layout: Layout,
    *,
    norm_last: bool,
    backbone: bool = False,
) -> Reading:
    """The model whose layers have these windows.

    Args:
        sizes: sizes from `_sizes`.
        windows: function that returns the attention of a layer.
        arrangement: arrangement of the sublayers' norms.
        layout: layout of the tensors.
        norm_last: whether merged patches are normalised last.
        backbone: whether the model has neither a last norm nor a pooled output.
    """
    norm, stages = Part("layer_norm", {"eps": sizes["eps"]}), []
    patches = {name: sizes[name] for name in ("patch_size", "positions")} | {"norm_eps": PATCHES_EPS}
    for n, depth in enumerate(sizes["depths"]):
        dim = sizes["embed_dim"] * 2**n
        ffn = Part(
            "FeedForward", {"ffn_dim": int(sizes["mlp_ratio"] * dim), "activation": sizes["activation"]}
        )
        merging = Part("PatchMerging", {"norm_eps": PATCHES_EPS, "norm_last": norm_last})
        described = {
            "embed_dim": dim,
            "embedding": merging if n else Part("PatchGrid", patches),
            "layers": tuple(layer_spec(windows(n, layer), ffn, arrangement, norm) for layer in range(depth)),
        }
        stages.append(Part("StageSpec", described))
    return Reading(
        model(
            "VisionHierarchy",
            "VisionHierarchySpec",
            image_size=sizes["image_size"],
            in_channels=sizes["in_channels"],
            stages=tuple(stages),
            norm=None if backbone else norm,
            pooling=None if backbone else Part("MeanPooling"),
        ),
        layout,
    )


HEADS = (image_head(pooling=lambda fields: Part("MeanPooling")),)
FAMILIES = (
    Family("hf.swin", ("swin",), read_swin, HEADS),
    Family("hf.swinv2", ("swinv2",), read_swinv2, HEADS),
)
