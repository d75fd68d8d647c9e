"""Readers of SegFormer and PVT v2, hierarchies of overlapping patches."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.describe import layer_spec
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, MOST_LAYERS, Fields
from attention_bridge.pretrained.families.heads import image_head
from attention_bridge.pretrained.families.readers.images import pair
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.stage_fields import hidden_size, stage_sizes
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_pvt_v2 import HF_PVT_V2, HF_PVT_V2_UNBIASED
from attention_bridge.weights.layouts.hf_segformer import HF_SEGFORMER

# Fields of training, of the decode head or of backbones alone.
UNUSED = (
    "decoder_hidden_size", "downsampling_rates", "drop_path_rate", "out_features", "out_indices", "reshape_last_stage",
    "semantic_loss_ignore_index", "stage_names",
)  # fmt: skip


def read_segformer(fields: Fields, tensors: Tensors) -> Reading:
    """Read a SegFormer configuration (Xie et al. 2021); its norms have one epsilon whatever `layer_norm_eps` is."""
    fields.raw("layer_norm_eps")
    return Reading(_hierarchy(fields, 1e-5), HF_SEGFORMER)


def read_pvt_v2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a PVT v2 configuration (Wang et al. 2022), without pooled keys and values."""
    linear = fields.flag("linear_attention", False)
    if linear:
        raise CheckpointError(
            f"{fields.source} must have linear_attention false, because no mechanism here pools keys and values to a "
            f"fixed grid, got {shown(linear)}"
        )
    layout = HF_PVT_V2 if fields.flag("qkv_bias", True) else HF_PVT_V2_UNBIASED
    return Reading(_hierarchy(fields, fields.number("layer_norm_eps", default=1e-6)), layout)


def _hierarchy(fields: Fields, eps: float) -> Part:
    """Describe the model; `eps` is the epsilon of its norms."""
    fields.raw(*UNUSED)
    count = fields.layers("num_encoder_blocks", default=4)
    depths = stage_sizes(fields, "depths", most=MOST_LAYERS, stages=count, largest=MOST_LAYERS)
    dims, heads, patches, strides, reductions, ratios = (
        stage_sizes(fields, name, most=MOST_LAYERS, stages=count)
        for name in (
            "hidden_sizes",
            "num_attention_heads",
            "patch_sizes",
            "strides",
            "sr_ratios",
            "mlp_ratios",
        )
    )
    activation = fields.word("hidden_act", words=ACTIVATIONS, default="gelu")
    norm, stages = Part("layer_norm", {"eps": eps}), []
    for n, dim in enumerate(dims):
        fields.divides("hidden_sizes", dim, "num_attention_heads", heads[n])
        attention = {"num_heads": heads[n], "reduction": reductions[n], "norm_eps": eps}
        ffn = {"ffn_dim": hidden_size(fields, "mlp_ratios", ratios[n], dim), "activation": activation}
        layer = layer_spec(
            Part("SpatialReductionAttention", attention), Part("ConvolutionalFeedForward", ffn), "pre", norm
        )
        embedding = {"patch_size": patches[n], "stride": strides[n], "norm_eps": eps}
        described = {
            "embed_dim": dim,
            "embedding": Part("OverlappingPatches", embedding),
            "layers": (layer,) * depths[n],
            "norm": norm,
        }
        stages.append(Part("StageSpec", described))
    return model(
        "VisionHierarchy",
        "VisionHierarchySpec",
        image_size=pair(fields, "image_size", 224),
        in_channels=fields.size("num_channels", default=3),
        stages=tuple(stages),
    )


MEAN = image_head(pooling=lambda fields: Part("MeanPooling"))
FAMILIES = (
    Family("hf.segformer", ("segformer",), read_segformer, (MEAN,)),
    Family("hf.pvt_v2", ("pvt_v2",), read_pvt_v2, (MEAN,)),
)
