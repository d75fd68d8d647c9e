"""Tiny models of DINOv2 with registers."""

import transformers as t

from parity_tests.helpers.family_cases import dinov2

MODULES = ("dinov2_with_registers",)


def case(model=t.Dinov2WithRegistersModel, **fields):
    """A model with these fields changed."""
    return dinov2.case(model, t.Dinov2WithRegistersConfig, **fields)


CASES = {
    "dinov2_with_registers": case(patch_size=4),
    "dinov2_with_registers, classes": case(
        t.Dinov2WithRegistersForImageClassification, num_labels=5, num_register_tokens=3, patch_size=2
    ),
    "dinov2_with_registers, gated, no biases": case(use_swiglu_ffn=True, qkv_bias=False, patch_size=4),
    "dinov2_with_registers, one register": case(num_register_tokens=1, image_size=9, patch_size=3),
}
