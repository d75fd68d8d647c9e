"""Tiny models of the encoder of ViT-MAE."""

import transformers as t

from parity_tests.helpers.family_cases.case import IMAGE, Case

MODULES = ("vit_mae",)
WITHOUT_HEAD = ("ViTMAEForPreTraining",)
PLAIN = {
    **IMAGE, "image_size": 12, "patch_size": 4, "mask_ratio": 0.0, "decoder_hidden_size": 8,
    "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 10,
}  # fmt: skip


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.vit", "image", t.ViTMAEModel, t.ViTMAEConfig, {**PLAIN, **fields})


CASES = {
    "vit_mae": case(),
    "vit_mae, no biases": case(qkv_bias=False),
    "vit_mae, eps, relu": case(layer_norm_eps=0.1, hidden_act="relu"),
    "vit_mae, one channel": case(num_channels=1, patch_size=3),
    "vit_mae, one head": case(num_attention_heads=1, num_hidden_layers=3),
    "vit_mae, one patch": case(image_size=5, patch_size=5),
}
