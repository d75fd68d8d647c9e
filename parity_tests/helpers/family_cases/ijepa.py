"""Tiny models of I-JEPA."""

import transformers as t

from parity_tests.helpers.family_cases.case import IMAGE, Case

MODULES = ("ijepa",)


def case(model=t.IJepaModel, **fields):
    """A model with these fields changed."""
    return Case("hf.vit", "image", model, t.IJepaConfig, {**IMAGE, **fields})


CASES = {
    "ijepa": case(),
    "ijepa, classes": case(t.IJepaForImageClassification, num_labels=4),
    "ijepa, no biases": case(qkv_bias=False, hidden_act="gelu_new"),
    "ijepa, square, eps": case(image_size=9, patch_size=3, layer_norm_eps=0.1, num_channels=2),
    "ijepa, one head": case(num_attention_heads=1, num_hidden_layers=3),
    "ijepa, one patch": case(t.IJepaForImageClassification, image_size=(8, 6), patch_size=(8, 6)),
}
