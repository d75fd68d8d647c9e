"""Tiny models of BEiT."""

import transformers as t

from parity_tests.helpers.family_cases.case import IMAGE, Case

MODULES = ("beit",)
WITHOUT_HEAD = ("BeitForMaskedImageModeling", "BeitForSemanticSegmentation")
PLAIN = {**IMAGE, "image_size": 8, "patch_size": 4, "num_hidden_layers": 3, "out_indices": [0, 1, 2, 3]}


def case(model=t.BeitModel, **fields):
    """A model with these fields changed."""
    return Case("hf.beit", "image", model, t.BeitConfig, {**PLAIN, **fields})


CASES = {
    "beit": case(use_relative_position_bias=True),
    "beit, classes": case(
        t.BeitForImageClassification,
        num_labels=4,
        use_relative_position_bias=True,
        image_size=9,
        patch_size=3,
    ),
    "beit, shared positions, no scale": case(
        use_shared_relative_position_bias=True, layer_scale_init_value=0.0, layer_norm_eps=0.1
    ),
    "beit, absolute positions, class token": case(
        t.BeitForImageClassification, use_absolute_position_embeddings=True, use_mean_pooling=False
    ),
    "beit, no positions, not square": case(image_size=(8, 12), use_mask_token=True, hidden_act="relu"),
}
