"""Readers of relatives of ViT: DeiT, the encoder of ViT-MAE, I-JEPA."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import distilled_head, image_head
from attention_bridge.pretrained.families.readers.images import image_sizes
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tasks import without
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_vit import HF_VIT, without_biases


def read_deit(fields: Fields, tensors: Tensors) -> Reading:
    """Read a DeiT configuration (Touvron et al. 2020): a distillation token follows the class token."""
    return _reading(fields, tensors, num_registers=1, register_positions=True)


def read_vit_mae(fields: Fields, tensors: Tensors) -> Reading:
    """Read the encoder of a ViT-MAE configuration (He et al. 2021), which leaves out no patch here."""
    ratio = fields.raw("mask_ratio", default=0.75)
    if type(ratio) not in (int, float) or ratio != 0:
        raise CheckpointError(
            f"{fields.source} must have mask_ratio 0, because the reference leaves out random patches otherwise, got "
            f"{shown(ratio)}; config={{'mask_ratio': 0}} encodes all patches"
        )
    decoder = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    fields.raw("norm_pix_loss", *(f"decoder_{name}" for name in decoder))
    return _reading(fields, tensors)


def read_ijepa(fields: Fields, tensors: Tensors) -> Reading:
    """Read an I-JEPA configuration (Assran et al. 2023): no class token."""
    return _reading(fields, tensors, class_token=False)


def attention_layout(fields: Fields, layout: Layout) -> Layout:
    """The layout, without biases of queries, keys and values if there are none."""
    return layout if fields.flag("qkv_bias", True) else without_biases(layout, "qkv")


def _reading(fields: Fields, tensors: Tensors, **tokens: Any) -> Reading:
    sizes = image_sizes(fields, patch_size=16, activation="gelu", norm_eps=1e-12)
    names = ("pooler.dense.weight", "pooler.weight", "pooler.kernel")
    pooler = any(tensors.ends_with(name) for name in names)
    if pooler:
        fields.only("pooler_act", "tanh")
        fields.only("pooler_output_size", sizes["embed_dim"], None)
    fields.raw("pooler_act")
    layout = attention_layout(fields, without(HF_VIT, "classifier.{name}"))
    return Reading(model("VisionTransformer", **sizes, **tokens, pooler=pooler), layout)


DEIT_HEADS = (image_head(), distilled_head("cls_classifier", "distillation_classifier"))
MEAN = image_head(pooling=lambda fields: Part("MeanPooling"))

FAMILIES = (
    Family("hf.deit", ("deit",), read_deit, DEIT_HEADS),
    Family("hf.vit_mae", ("vit_mae",), read_vit_mae),
    Family("hf.ijepa", ("ijepa",), read_ijepa, (MEAN,)),
)
