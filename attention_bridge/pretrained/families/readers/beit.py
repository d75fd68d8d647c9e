"""Reader of BEiT."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.describe import vision_layer
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import image_head
from attention_bridge.pretrained.families.readers.images import image_sizes
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_beit import HF_BEIT


def read_beit(fields: Fields, tensors: Tensors) -> Reading:
    """Read a BEiT configuration (Bao et al. 2021): relative positions, LayerScale, mean pooling."""
    sizes = image_sizes(fields, patch_size=16, activation="gelu", norm_eps=1e-12)
    own, shared, absolute = (
        fields.flag(f"use_{name}", False)
        for name in (
            "relative_position_bias",
            "shared_relative_position_bias",
            "absolute_position_embeddings",
        )
    )
    if own and shared:
        raise CheckpointError(
            f"{fields.source} must have use_relative_position_bias or use_shared_relative_position_bias, got both"
        )
    size, patch = sizes["image_size"], sizes["patch_size"]
    if (own or shared or absolute) and size[0] != size[1]:
        raise CheckpointError(
            f"{fields.source} must have a square image_size, because the reference interpolates the positions of "
            f"others, got {size}"
        )
    fields.raw(
        "vocab_size", "use_mask_token", "drop_path_rate", "pool_scales", "use_auxiliary_head", "auxiliary_loss_weight",
        "auxiliary_channels", "auxiliary_num_convs", "auxiliary_concat_input", "semantic_loss_ignore_index", "add_fpn",
        "reshape_hidden_states", "out_features", "out_indices", "stage_names",
    )  # fmt: skip
    grid = {"grid_size": (size[0] // patch[0], size[1] // patch[1])}
    bias = Part("PatchBias", {"num_heads": sizes["num_heads"], **grid})
    scaled = fields.number("layer_scale_init_value", default=0.1, zero=True) > 0
    pools = any(
        tensors.ends_with(name)
        for name in ("pooler.layernorm.weight", "pooling.norm.weight", "pooling.norm.scale")
    )
    return Reading(
        model(
            "VisionTransformer",
            **sizes,
            positions=absolute,
            layer=vision_layer(sizes, scaled=scaled, position=bias if own else None, shared_position=shared),
            position=bias if shared else None,
            final_norm=not fields.flag("use_mean_pooling", True)
            or any(
                name.endswith(("layernorm.weight", "final_norm.weight", "final_norm.scale"))
                and "pooler" not in name
                for name in tensors
            ),
            pooling=_mean(sizes["norm_eps"]) if pools else None,
        ),
        HF_BEIT,
    )


def _mean(eps: float) -> Part:
    """The normed mean of the patches."""
    return Part("NormedPooling", {"pooling": Part("MeanPooling", {"skip": 1}), "norm_eps": eps})


MEAN = image_head(
    pooling=lambda fields: _mean(fields.number("layer_norm_eps", default=1e-12)), norm="pooler.layernorm"
)

FAMILIES = (Family("hf.beit", ("beit",), read_beit, (MEAN, image_head())),)
