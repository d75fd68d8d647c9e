"""Tiny models of PVT v2."""

import transformers as t

from parity_tests.helpers.family_cases.case import Case
from parity_tests.helpers.family_cases.segformer import PLAIN as SEGFORMER

MODULES = ("pvt_v2",)
PLAIN = {name: x for name, x in SEGFORMER.items() if name != "decoder_hidden_size"}


def case(model=t.PvtV2Model, **fields):
    """A model with these fields changed."""
    return Case("hf.pvt_v2", "pyramid", model, t.PvtV2Config, {**PLAIN, **fields})


CASES = {
    "pvt_v2": case(),
    "pvt_v2, classes": case(t.PvtV2ForImageClassification, num_labels=4, depths=[2, 1]),
    "pvt_v2, no biases, eps": case(qkv_bias=False, layer_norm_eps=0.1),
    "pvt_v2, three stages, relu": case(
        num_encoder_blocks=3, depths=[1, 1, 2], hidden_sizes=[6, 8, 10], patch_sizes=[7, 3, 3], strides=[2, 2, 2],
        sr_ratios=[4, 2, 1], num_attention_heads=[1, 2, 5], mlp_ratios=[1, 2, 1], hidden_act="relu",
    ),
    "pvt_v2, even patches, one stage": case(
        num_encoder_blocks=1, patch_sizes=[4], strides=[4], depths=[3], hidden_sizes=[6], sr_ratios=[2],
        num_attention_heads=[2], mlp_ratios=[2], image_size=(19, 30),
    ),
    "pvt_v2, one channel": case(num_channels=1, sr_ratios=[1, 2], drop_path_rate=0.3),
}  # fmt: skip
