"""Tiny models of Swin v2."""

import transformers as t

from parity_tests.helpers.family_cases.case import Case
from parity_tests.helpers.family_cases.swin import PLAIN

MODULES = ("swinv2",)
WITHOUT_HEAD = ("Swinv2ForMaskedImageModeling",)


def case(model=t.Swinv2Model, **fields):
    """A model with these fields changed."""
    return Case("hf.swinv2", "pyramid", model, t.Swinv2Config, {**PLAIN, **fields})


CASES = {
    "swinv2": case(),
    "swinv2, classes, pretrained windows": case(
        t.Swinv2ForImageClassification, num_labels=4, depths=[2, 2], pretrained_window_sizes=[5, 2]
    ),
    "swinv2, padded patches, merging and windows": case(image_size=(17, 29), depths=[2, 2]),
    "swinv2, no biases": case(qkv_bias=False, drop_path_rate=0.4, patch_size=(2, 3)),
    "swinv2, windows as high as the grid": case(image_size=(10, 26), depths=[1, 2], window_size=4),
    "swinv2, shifted where the grid is narrower than a window": case(
        image_size=(26, 6), depths=[2], num_heads=[2], window_size=4
    ),
    "swinv2, three stages, eps, relu, windows of one": case(
        image_size=(8, 12), depths=[1, 2, 3], num_heads=[1, 3, 4], layer_norm_eps=0.1, hidden_act="relu"
    ),
}
