"""Tiny models of UMT5, with relative positions in each layer."""

import transformers as t

from parity_tests.helpers.family_cases.case import Case
from parity_tests.helpers.family_cases.mt5 import PLAIN

MODULES = ("umt5",)
WITHOUT_HEAD = ("UMT5ForQuestionAnswering", "UMT5ForSequenceClassification")
ALONE = ("hf.umt5_encoder", "hf.umt5_gated_encoder")


def case(layout="hf.umt5_gated", **fields):
    """A model with these fields changed."""
    return Case(layout, "sequence", t.UMT5ForConditionalGeneration, t.UMT5Config, {**PLAIN, **fields})


CASES = {
    "umt5": case(),
    "umt5, not gated": case("hf.umt5", feed_forward_proj="relu", num_decoder_layers=None),
    "umt5, gated silu, odd vocabulary": case(feed_forward_proj="gated-silu", vocab_size=37),
    "umt5, one head": case(num_heads=1, num_layers=1, d_kv=7),
    "umt5, many buckets": case(relative_attention_num_buckets=12, relative_attention_max_distance=40),
    "umt5, large epsilon": case(layer_norm_epsilon=0.1, num_heads=5),
}
