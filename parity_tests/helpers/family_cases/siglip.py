"""Tiny models of SigLIP."""

import transformers as t

from parity_tests.helpers.family_cases.case import IMAGE, NONE, SIZES, Case

MODULES = ("siglip",)
ALONE = ("hf.siglip_text", "hf.siglip_vision")
PARTS = ("SiglipTextModel", "SiglipVisionModel")
TEXT = {**SIZES, "max_position_embeddings": 11, "projection_size": 16, **NONE}
LOOK = {**IMAGE, "hidden_size": 16, "num_attention_heads": 4, "image_size": 8, "patch_size": 4}


def case(text=(), image=()):
    """A model with these fields of its towers changed."""
    fields = {"text_config": {**TEXT, **dict(text)}, "vision_config": {**LOOK, **dict(image)}}
    return Case("hf.siglip", "contrastive", t.SiglipModel, t.SiglipConfig, fields)


CASES = {
    "siglip": case(),
    "siglip, relu, eps": case({"hidden_act": "relu"}, {"layer_norm_eps": 0.1}),
    "siglip, pixels left out": case({"num_attention_heads": 1}, {"patch_size": 3, "num_hidden_layers": 1}),
    "siglip, one size": case(
        {"hidden_size": 16, "num_attention_heads": 2, "projection_size": None, "layer_norm_eps": 0.1},
        {"hidden_act": "quick_gelu", "patch_size": 2},
    ),
}
