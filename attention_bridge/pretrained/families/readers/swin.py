"""Reader of Swin, a hierarchy of windows."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.describe import layer_spec
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, LARGEST, Fields
from attention_bridge.pretrained.families.heads import image_head
from attention_bridge.pretrained.families.readers.images import pair
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_swin import HF_SWIN, MOST_STAGES, without_biases

# Fields that the reference computes from others or uses in training or pretraining alone.
UNUSED = (
    "drop_path_rate", "hidden_size", "num_hidden_layers", "num_layers", "path_norm", "out_features", "out_indices",
    "stage_names",
)  # fmt: skip
MERGING_EPS = 1e-5  # of the norms of patches, whatever layer_norm_eps is


def read_swin(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Swin configuration (Liu et al. 2021): shifted windows, with a learned bias for each relative position."""
    sizes = _sizes(fields)
    window = fields.size("window_size", default=7)
    eps = fields.number("layer_norm_eps", default=1e-5)
    norm = Part("layer_norm", {"eps": eps})
    stages = []
    for n, (depth, num_heads) in enumerate(zip(sizes["depths"], sizes["num_heads"], strict=True)):
        dim = sizes["embed_dim"] * 2**n
        layers = tuple(
            layer_spec(
                Part(
                    "ShiftedWindowAttention",
                    {
                        "num_heads": num_heads,
                        "window_size": window,
                        "shift": window // 2 if index % 2 else 0,
                    },
                ),
                _ffn(sizes, dim),
                "pre",
                norm,
            )
            for index in range(depth)
        )
        stages.append(_stage(sizes, n, dim, layers, {"norm_eps": MERGING_EPS}))
    layout = HF_SWIN if fields.flag("qkv_bias", True) else without_biases(HF_SWIN, "qkv")
    return Reading(_hierarchy(sizes, tuple(stages), norm), layout)


def _sizes(fields: Fields) -> dict[str, Any]:
    """The sizes of a hierarchy of windows."""
    fields.raw(*UNUSED)
    depths = stage_sizes(fields, "depths")
    sizes = {
        "depths": depths,
        "num_heads": stage_sizes(fields, "num_heads", "num_attention_heads", stages=len(depths)),
        "embed_dim": fields.size("embed_dim", default=96),
        "image_size": pair(fields, "image_size", 224),
        "patch_size": pair(fields, "patch_size", 4),
        "in_channels": fields.size("num_channels", default=3),
        "mlp_ratio": fields.number("mlp_ratio", default=4.0),
        "activation": fields.word("hidden_act", words=ACTIVATIONS, default="gelu"),
        "positions": fields.flag("use_absolute_embeddings", False),
    }
    for n, num_heads in enumerate(sizes["num_heads"]):
        fields.divides("embed_dim", sizes["embed_dim"] * 2**n, "num_heads", num_heads)
    if sizes["positions"] and any(
        size % patch for size, patch in zip(sizes["image_size"], sizes["patch_size"], strict=True)
    ):
        raise CheckpointError(
            f"{fields.source} must have an image_size that patch_size divides for use_absolute_embeddings, "
            f"got {sizes['image_size']} and {sizes['patch_size']}"
        )
    return sizes


def stage_sizes(fields: Fields, *names: str, stages: int | None = None) -> tuple[int, ...]:
    """A positive whole number for each stage, by the first of these names that exists."""
    given = fields.raw(*names)
    right = isinstance(given, list | tuple) and all(type(x) is int and 0 < x <= LARGEST for x in given)
    if not right or not 0 < len(given) <= MOST_STAGES or stages not in (None, len(given)):
        number = f"{stages}" if stages else f"at most {MOST_STAGES}"
        raise CheckpointError(
            f"{fields.source} must have a list {names[0]} of positive whole numbers, {number}, one per stage, "
            f"got {shown(given)}"
        )
    return tuple(given)


def _ffn(sizes: dict[str, Any], dim: int) -> Part:
    return Part("FeedForward", {"ffn_dim": int(sizes["mlp_ratio"] * dim), "activation": sizes["activation"]})


def _stage(
    sizes: dict[str, Any], n: int, dim: int, layers: tuple[Part, ...], merging: dict[str, Any]
) -> Part:
    """Describe the stage of this number: patches of the image, or merged patches of the previous stage."""
    patches = {
        "patch_size": sizes["patch_size"],
        "positions": sizes["positions"],
        "norm_eps": MERGING_EPS,
    }
    embedding = Part("PatchMerging", merging) if n else Part("PatchGrid", patches)
    return Part("StageSpec", {"embed_dim": dim, "embedding": embedding, "layers": layers})


def _hierarchy(sizes: dict[str, Any], stages: tuple[Part, ...], norm: Part) -> Part:
    """Describe the model of these stages."""
    return model(
        "VisionHierarchy",
        "VisionHierarchySpec",
        image_size=sizes["image_size"],
        in_channels=sizes["in_channels"],
        stages=stages,
        norm=norm,
        pooling=Part("MeanPooling"),
    )


MEAN = image_head(pooling=lambda fields: Part("MeanPooling"))
FAMILIES = (Family("hf.swin", ("swin",), read_swin, (MEAN,)),)
