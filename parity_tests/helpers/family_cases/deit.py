"""Tiny models of DeiT."""

import transformers as t

from parity_tests.helpers.family_cases.case import IMAGE, Case

MODULES = ("deit",)
WITHOUT_HEAD = ("DeiTForMaskedImageModeling",)


def case(model=t.DeiTModel, **fields):
    """A model with these fields changed."""
    return Case("hf.vit", "image", model, t.DeiTConfig, {**IMAGE, **fields})


CASES = {
    "deit": case(),
    "deit, classes": case(t.DeiTForImageClassification, num_labels=4),
    "deit, classes of two tokens": case(t.DeiTForImageClassificationWithTeacher, num_labels=5),
    "deit, no biases": case(qkv_bias=False, hidden_act="relu"),
    "deit, square, eps": case(image_size=9, patch_size=3, layer_norm_eps=0.1, num_channels=2),
    "deit, one head": case(num_attention_heads=1, num_hidden_layers=3, hidden_act="quick_gelu"),
}
