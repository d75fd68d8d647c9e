"""Tiny models of DINOv2."""

import transformers as t

from parity_tests.helpers.family_cases.case import IMAGE, Case

MODULES = ("dinov2",)
PLAIN = {**IMAGE, "image_size": 8, "mlp_ratio": 2}
PLAIN.pop("intermediate_size")


def case(model=t.Dinov2Model, config=t.Dinov2Config, **fields):
    """A model with these fields changed."""
    return Case("hf.dinov2", "image", model, config, {**PLAIN, **fields})


CASES = {
    "dinov2": case(patch_size=4),
    "dinov2, gated, classes": case(
        t.Dinov2ForImageClassification, num_labels=4, use_swiglu_ffn=True, image_size=9, patch_size=3
    ),
    "dinov2, no biases, no mask": case(
        qkv_bias=False, use_mask_token=False, hidden_act="relu", patch_size=(4, 2)
    ),
    "dinov2, eps": case(layer_norm_eps=0.1, num_channels=2, patch_size=2, mlp_ratio=3),
}
