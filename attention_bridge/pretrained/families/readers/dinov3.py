"""Reader of DINOv3's Vision Transformers."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.describe import vision_layer
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.readers.images import image_sizes
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_dinov3 import HF_DINOV3
from attention_bridge.weights.layouts.hf_vit import without_biases


def read_dinov3(fields: Fields, tensors: Tensors) -> Reading:
    """Read a DINOv3 configuration (Siméoni et al. 2025): registers, LayerScale and rotary positions of the patches."""
    dim, heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",), defaults=(384, 6))
    fields.divides("hidden_size", dim, "4 num_attention_heads", 4 * heads)
    sizes = image_sizes(
        fields,
        patch_size=16,
        activation="gelu",
        norm_eps=1e-5,
        ffn_dim=fields.size("intermediate_size", default=1536),
    )
    size, patch = sizes["image_size"], sizes["patch_size"]
    registers = fields.size("num_register_tokens", default=0)
    rope = {
        "head_dim": dim // heads,
        "grid_size": (size[0] // patch[0], size[1] // patch[1]),
        "num_prefix": 1 + registers,
        "base": fields.number("rope_theta", default=100.0),
    }
    biases = {"query": "q", "key": "k", "value": "v", "proj": "out"}
    absent = [ours for name, ours in biases.items() if not fields.flag(f"{name}_bias", name != "key")]
    layer = vision_layer(
        sizes,
        gated=fields.flag("use_gated_mlp", False),
        scaled=True,
        position=Part("PatchRotaryEmbedding", rope),
        ffn_bias=fields.flag("mlp_bias", True),
    )
    fields.raw(
        "layerscale_value", "drop_path_rate", "pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale",
        "apply_layernorm", "reshape_hidden_states", "out_features", "out_indices", "stage_names",
    )  # fmt: skip
    return Reading(
        model(
            "VisionTransformer",
            **sizes,
            num_registers=registers,
            positions=False,
            layer=layer,
        ),
        without_biases(HF_DINOV3, absent),
    )


FAMILIES = (Family("hf.dinov3_vit", ("dinov3_vit",), read_dinov3),)
