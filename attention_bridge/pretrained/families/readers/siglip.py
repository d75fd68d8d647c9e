"""Readers of SigLIP, and of SigLIP 2 with a fixed resolution: both towers, or one alone."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.defaults import defaults_of
from attention_bridge.pretrained.families.describe import model_spec, vision_layer
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.heads import image_head
from attention_bridge.pretrained.families.readers.images import image_sizes
from attention_bridge.pretrained.families.tasks import has_only
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_siglip import HF_SIGLIP, HF_SIGLIP_TEXT, HF_SIGLIP_VISION


def read_siglip(fields: Fields, tensors: Tensors) -> Reading:
    """Read a SigLIP configuration (Zhai et al. 2023): both towers, or the image tower if it is alone."""
    text, image = (
        fields.part(f"{half}_config", defaults_of(f"siglip_{half}_model")) for half in ("text", "vision")
    )
    reads, feature_dim, looks = *_text(text), _image(image)
    for tower in (text, image):
        tower.raw("tie_word_embeddings")
        tower.finish()
    mirror = tensors.starts_with("patches.") or tensors.starts_with("backbone.patches.")
    if mirror or has_only(tensors, "vision_model.", "text_model."):
        return Reading(model("VisionTransformer", **looks), HF_SIGLIP_VISION)
    return Reading(
        model(
            "ContrastiveModel",
            "ContrastiveConfig",
            text=reads,
            image=Part("VisionTransformerConfig", looks),
            feature_dim=feature_dim,
            text_pooling=Part("LastPosition"),
            text_bias=True,
            image_projection=False,
            score_bias=True,
        ),
        HF_SIGLIP,
    )


def read_siglip_text(fields: Fields, tensors: Tensors) -> Reading:
    """Read the configuration of SigLIP's text tower alone."""
    fields.raw("tie_word_embeddings")
    backbone, feature_dim = _text(fields)
    sizes = {"feature_dim": feature_dim, "bias": True, "normalised": False}
    head = Part("EmbeddingHead", {"pooling": Part("LastPosition"), **sizes})
    described = Part("TaskSpec", {"backbone": backbone, "head": head})
    return Reading(Part("TaskModel", {"config": described}), HF_SIGLIP_TEXT)


def read_siglip_vision(fields: Fields, tensors: Tensors) -> Reading:
    """Read the configuration of SigLIP's image tower alone."""
    fields.raw("tie_word_embeddings")
    return Reading(model("VisionTransformer", **_image(fields)), HF_SIGLIP_VISION)


def _text(fields: Fields) -> tuple[Part, int]:
    """The description of the text tower, and the features of the shared space."""
    dim, heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",), defaults=(768, 12))
    sizes = {
        "num_heads": heads,
        "ffn_dim": fields.size("intermediate_size", default=3072),
        "activation": fields.word("hidden_act", words=ACTIVATIONS, default="gelu_tanh"),
        "norm_eps": fields.number("layer_norm_eps", default=1e-6),
    }
    spec = model_spec(
        fields.size("vocab_size", default=32000),
        dim,
        [vision_layer(sizes)] * fields.layers("num_hidden_layers", default=12),
        norm=Part("layer_norm", {"eps": sizes["norm_eps"]}),
        max_len=fields.size("max_position_embeddings", default=64),
        tied=True,
        is_causal=False,
    )
    return spec, fields.size("projection_size", default=dim)


def _image(fields: Fields) -> dict[str, Any]:
    """The fields of the image tower's configuration."""
    sizes = image_sizes(fields, patch_size=16, activation="gelu_tanh", norm_eps=1e-6)
    pooling = None
    if fields.flag("vision_use_head", True):
        used = {name: sizes[name] for name in ("num_heads", "ffn_dim", "activation", "norm_eps")}
        pooling = Part("LearnedPooling", used)
    return {**sizes, "class_token": False, "pooling": pooling}


MEAN = image_head(pooling=lambda fields: Part("MeanPooling"))

FAMILIES = (
    Family("hf.siglip", ("siglip",), read_siglip, (MEAN,)),
    Family("hf.siglip_text", ("siglip_text_model",), read_siglip_text),
    Family("hf.siglip_vision", ("siglip_vision_model",), read_siglip_vision),
)
