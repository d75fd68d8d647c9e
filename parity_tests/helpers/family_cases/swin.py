"""Tiny models of Swin."""

import transformers as t

from parity_tests.helpers.family_cases.case import Case

MODULES = ("swin",)
WITHOUT_HEAD = ("SwinForMaskedImageModeling",)
# The grids have 8 by 12 and 4 by 6 positions, in windows of 3.
PLAIN = {
    "image_size": (16, 24),
    "patch_size": 2,
    "embed_dim": 6,
    "depths": [2, 1],
    "num_heads": [3, 2],
    "window_size": 3,
    "mlp_ratio": 1.5,
    "num_channels": 2,
}


def case(model=t.SwinModel, **fields):
    """A model with these fields changed."""
    return Case("hf.swin", "pyramid", model, t.SwinConfig, {**PLAIN, **fields})


CASES = {
    "swin": case(),
    "swin, classes": case(t.SwinForImageClassification, num_labels=4, depths=[3, 2]),
    "swin, padded patches, merging and windows": case(image_size=(17, 29), depths=[2, 2]),
    "swin, absolute positions, no biases": case(
        use_absolute_embeddings=True, qkv_bias=False, drop_path_rate=0.4
    ),
    "swin, one window in height": case(image_size=(6, 26), depths=[2], num_heads=[2], window_size=3),
    "swin, three stages, eps, relu": case(
        depths=[1, 2, 3], num_heads=[1, 3, 4], window_size=2, layer_norm_eps=0.1, hidden_act="relu"
    ),
    "swin, patches of two sizes, even windows": case(
        image_size=(18, 40), patch_size=(2, 4), window_size=4, depths=[2], num_heads=[3]
    ),
}
