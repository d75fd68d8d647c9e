"""Tiny models of SegFormer."""

import transformers as t

from parity_tests.helpers.family_cases.case import Case

MODULES = ("segformer",)
WITHOUT_HEAD = ("SegformerForSemanticSegmentation",)
# Images of 17 by 26 pixels, unless image_size is given, which SegFormer itself does not read.
PLAIN = {
    "image_size": (17, 26),
    "num_channels": 2,
    "num_encoder_blocks": 2,
    "depths": [1, 2],
    "sr_ratios": [2, 1],
    "hidden_sizes": [6, 10],
    "patch_sizes": [5, 3],
    "strides": [3, 2],
    "num_attention_heads": [3, 2],
    "mlp_ratios": [2, 3],
    "decoder_hidden_size": 7,
}


def case(model=t.SegformerModel, **fields):
    """A model with these fields changed."""
    return Case("hf.segformer", "pyramid", model, t.SegformerConfig, {**PLAIN, **fields})


CASES = {
    "segformer": case(),
    "segformer, classes": case(t.SegformerForImageClassification, num_labels=4, depths=[2, 1]),
    "segformer, last stage not reshaped, eps that is not used": case(
        reshape_last_stage=False, layer_norm_eps=0.1
    ),
    "segformer, three stages, relu": case(
        num_encoder_blocks=3, depths=[1, 1, 2], hidden_sizes=[6, 8, 10], patch_sizes=[7, 3, 3], strides=[2, 2, 2],
        sr_ratios=[4, 2, 1], num_attention_heads=[1, 2, 5], mlp_ratios=[1, 2, 1], hidden_act="relu",
    ),
    "segformer, even patches, one stage": case(
        num_encoder_blocks=1, patch_sizes=[4, 9], strides=[4, 9], depths=[3, 9], image_size=(19, 30)
    ),
    "segformer, one channel": case(num_channels=1, sr_ratios=[1, 2], drop_path_rate=0.3),
}  # fmt: skip
