"""Readers of image models: ViT, CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.defaults import defaults_of
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, LARGEST, Fields
from attention_bridge.pretrained.families.heads import IMAGES
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tasks import has_only, without
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_clip import HF_CLIP, HF_CLIP_TEXT, HF_CLIP_VISION
from attention_bridge.weights.layouts.hf_vit import HF_VIT

# Older files have this wrong value; their end token is the one with the highest id.
OLD_END_TOKEN = 2


def read_vit(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Vision Transformer configuration (Dosovitskiy et al. 2020): plain, with a pooler or with a classifier."""
    fields.only("qkv_bias", True)
    fields.only("pooler_act", "tanh")
    labels = fields.raw("id2label", default={0: "LABEL_0", 1: "LABEL_1"})
    if not isinstance(labels, Mapping) or not labels:
        raise CheckpointError(f"{fields.source} must have the names of classes id2label, got {shown(labels)}")
    found = tensors.spell(HF_VIT)
    classes = "classifier.weight" in found or tensors.starts_with("head.")
    classes = classes and fields.task in (None, IMAGES)
    return Reading(
        model(
            "VisionTransformer",
            **image_sizes(fields, patch_size=16, activation="gelu", norm_eps=1e-12),
            pooler=any(
                tensors.ends_with(name) for name in ("pooler.dense.weight", "pooler.weight", "pooler.kernel")
            ),
            num_classes=_classes(found, labels) if classes else None,
        ),
        HF_VIT if classes else without(HF_VIT, "classifier.{name}"),
    )


def _classes(found: Tensors, labels: Mapping[Any, Any]) -> int:
    """Number of classes: the rows of the classifier; without shapes, the number of labels."""
    shape = found.shape("classifier.weight")
    return len(labels) if shape is None else shape[0]


def read_clip(fields: Fields, tensors: Tensors) -> Reading:
    """Read a CLIP configuration (Radford et al. 2021): both towers, or the tower whose tensors there are."""
    fields.raw("text_config_dict", "vision_config_dict")
    text, image = (
        fields.part(f"{half}_config", defaults_of(f"clip_{half}_model")) for half in ("text", "vision")
    )
    reads, looks, end = _text_tower(text), _image_tower(image), text.whole("eos_token_id", default=49407)
    feature_dim = fields.size("projection_dim", default=512)
    for tower in (text, image):
        tower.raw("projection_dim", "tie_word_embeddings")
        tower.finish()
    if has_only(tensors, "vision_model.", "text_model.") or tensors.starts_with("backbone.patches."):
        return _tower_alone(looks, HF_CLIP_VISION, tensors, "visual_projection.weight", "FirstToken")
    if has_only(tensors, "text_model.", "vision_model.") or tensors.starts_with("backbone."):
        return _tower_alone(reads, HF_CLIP_TEXT, tensors, "text_projection.weight", "LastToken")
    return Reading(
        model(
            "ContrastiveModel",
            "ContrastiveConfig",
            text=reads,
            image=looks,
            feature_dim=feature_dim,
            end_token=None if end == OLD_END_TOKEN else end,
        ),
        HF_CLIP,
    )


def read_clip_text(fields: Fields, tensors: Tensors) -> Reading:
    """Read the configuration of CLIP's text tower alone."""
    fields.raw("projection_dim", "tie_word_embeddings")
    return _tower_alone(_text_tower(fields), HF_CLIP_TEXT, tensors, "text_projection.weight", "LastToken")


def read_clip_vision(fields: Fields, tensors: Tensors) -> Reading:
    """Read the configuration of CLIP's image tower alone."""
    fields.raw("projection_dim", "tie_word_embeddings")
    return _tower_alone(
        _image_tower(fields), HF_CLIP_VISION, tensors, "visual_projection.weight", "FirstToken"
    )


def _text_tower(fields: Fields) -> Part:
    dim, heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",), defaults=(512, 8))
    return Part(
        "DecoderConfig",
        {
            "vocab_size": fields.size("vocab_size", default=49408),
            "embed_dim": dim,
            "num_heads": heads,
            "num_layers": fields.layers("num_hidden_layers", default=12),
            "ffn_dim": fields.size("intermediate_size", default=2048),
            "max_len": fields.size("max_position_embeddings", default=77),
            "activation": fields.word("hidden_act", words=ACTIVATIONS, default="quick_gelu"),
            "norm_eps": fields.number("layer_norm_eps", default=1e-5),
        },
    )


def _image_tower(fields: Fields) -> Part:
    return Part(
        "VisionTransformerConfig",
        {
            **image_sizes(fields, patch_size=32, activation="quick_gelu", norm_eps=1e-5),
            "embedding_norm": True,
        },
    )


def _tower_alone(tower: Part, layout: Layout, tensors: Tensors, projection: str, pooling: str) -> Reading:
    """One tower: with its projection an embedding head, else the hidden states alone."""
    features = tensors.rows(projection, "head.feature_proj")
    head = Part("NoHead")
    if features is not None:
        head = Part("EmbeddingHead", {"pooling": Part(pooling), "feature_dim": features, "normalised": False})
    else:
        layout = without(layout, projection)
    return Reading(Part("TaskModel", {"config": Part("TaskSpec", {"backbone": tower, "head": head})}), layout)


def image_sizes(
    fields: Fields, *, patch_size: int, activation: str, norm_eps: float, ffn_dim: int | None = None
) -> dict[str, Any]:
    """The sizes of an image encoder; arguments are the family's defaults, and `ffn_dim` if no field has it."""
    dim, heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",), defaults=(768, 12))
    image, patch = image_pair(fields, "image_size", 224), image_pair(fields, "patch_size", patch_size)
    if image[0] < patch[0] or image[1] < patch[1]:
        raise CheckpointError(
            f"{fields.source} must have an image_size that holds a patch, got {image} and {patch}"
        )
    return {
        "image_size": image,
        "patch_size": patch,
        "in_channels": fields.size("num_channels", default=3),
        "embed_dim": dim,
        "num_heads": heads,
        "num_layers": fields.layers("num_hidden_layers", default=12),
        "ffn_dim": fields.size("intermediate_size", default=3072) if ffn_dim is None else ffn_dim,
        "activation": fields.word("hidden_act", words=ACTIVATIONS, default=activation),
        "norm_eps": fields.number("layer_norm_eps", default=norm_eps),
    }


def image_pair(fields: Fields, name: str, default: int) -> tuple[int, int]:
    """Height and width of images or patches, given as one number or as two."""
    given = fields.raw(name, default=default)
    pair = (
        (given, given) if isinstance(given, int) else tuple(given) if isinstance(given, list | tuple) else ()
    )
    if len(pair) != 2 or not all(type(size) is int and 0 < size <= LARGEST for size in pair):
        raise CheckpointError(
            f"{fields.source} must have {name} as one or two positive numbers, got {shown(given)}"
        )
    return pair[0], pair[1]


FAMILIES = (
    Family("hf.vit", ("vit",), read_vit),
    Family("hf.clip", ("clip",), read_clip),
    Family("hf.clip_text", ("clip_text_model",), read_clip_text),
    Family("hf.clip_vision", ("clip_vision_model",), read_clip_vision),
)
