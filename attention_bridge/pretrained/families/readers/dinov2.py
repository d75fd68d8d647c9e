"""Reader of DINOv2, with and without registers."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.describe import vision_layer
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import image_head
from attention_bridge.pretrained.families.readers.images import image_sizes
from attention_bridge.pretrained.families.readers.vit_relatives import attention_layout
from attention_bridge.pretrained.families.tasks import without
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_dinov2 import FFN, HF_DINOV2


def read_dinov2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a DINOv2 configuration (Oquab et al. 2023), with registers or not (Darcet et al. 2023)."""
    gated = fields.flag("use_swiglu_ffn", False)
    ffn_dim = fields.size("hidden_size", default=768) * fields.size("mlp_ratio", default=4)
    if gated:  # two thirds, rounded up to a multiple of 8
        ffn_dim = (int(ffn_dim * 2 / 3) + 7) // 8 * 8
    patch_size = 16 if _has_registers(fields) else 14
    sizes = image_sizes(fields, patch_size=patch_size, activation="gelu", norm_eps=1e-6, ffn_dim=ffn_dim)
    if sizes["image_size"][0] != sizes["image_size"][1]:
        raise CheckpointError(
            f"{fields.source} must have a square image_size, because the reference interpolates the positions of "
            f"others, got {sizes['image_size']}"
        )
    sizes["activation"] = "silu" if gated else sizes["activation"]
    fields.raw(
        "layerscale_value", "drop_path_rate", "use_mask_token", "apply_layernorm", "reshape_hidden_states",
        "out_features", "out_indices", "stage_names",
    )  # fmt: skip
    return Reading(
        model(
            "VisionTransformer",
            **sizes,
            num_registers=_registers(fields),
            layer=vision_layer(sizes, gated=gated, scaled=True),
        ),
        attention_layout(fields, without(HF_DINOV2, FFN) if gated else HF_DINOV2),
    )


def _has_registers(fields: Fields) -> bool:
    return fields.given.get("model_type") == "dinov2_with_registers"


def _registers(fields: Fields) -> int:
    return fields.size("num_register_tokens", default=4) if _has_registers(fields) else 0


HEAD = image_head(pooling=lambda fields: Part("FirstAndMeanPooling", {"skip": 1 + _registers(fields)}))

FAMILIES = (Family("hf.dinov2", ("dinov2", "dinov2_with_registers"), read_dinov2, (HEAD,)),)
