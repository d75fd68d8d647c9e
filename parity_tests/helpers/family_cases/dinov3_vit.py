"""Tiny models of DINOv3."""

import transformers as t

from parity_tests.helpers.family_cases.case import IMAGE, Case

MODULES = ("dinov3_vit",)
PLAIN = {**IMAGE, "hidden_size": 24, "num_register_tokens": 4}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.dinov3", "image", t.DINOv3ViTModel, t.DINOv3ViTConfig, {**PLAIN, **fields})


CASES = {
    "dinov3_vit": case(),
    "dinov3_vit, gated, one register": case(use_gated_mlp=True, num_register_tokens=1, hidden_act="silu"),
    "dinov3_vit, other biases": case(
        query_bias=False, key_bias=True, value_bias=False, proj_bias=False, mlp_bias=False, rope_theta=7.0
    ),
    "dinov3_vit, eps, square": case(layer_norm_eps=0.1, image_size=9, patch_size=3, num_attention_heads=2),
}
