"""Tiny models of mT5, and of ByT5, whose model type is T5's."""

import transformers as t

from parity_tests.helpers.family_cases.case import VOCAB, Case

MODULES = ("mt5",)
WITHOUT_HEAD = ("MT5ForQuestionAnswering", "MT5ForSequenceClassification")
PLAIN = {
    "vocab_size": VOCAB,
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 20,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 6,
}


def case(layout="hf.t5_gated", **fields):
    """A model with these fields changed."""
    return Case(layout, "sequence", t.MT5ForConditionalGeneration, t.MT5Config, {**PLAIN, **fields})


BYT5 = {**PLAIN, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_layers": 3}

CASES = {
    "mt5": case(),
    "mt5, not gated": case("hf.t5", feed_forward_proj="relu", num_decoder_layers=None),
    "mt5, gated silu, odd vocabulary": case(feed_forward_proj="gated-silu", vocab_size=37, layer_norm_epsilon=0.1),
    "mt5, one head": case(num_heads=1, num_layers=1, d_kv=7),
    "mt5, gated relu, odd buckets": case(feed_forward_proj="gated-relu", relative_attention_num_buckets=12,
                                         relative_attention_max_distance=40),
    "byt5": Case("hf.t5_gated", "sequence", t.T5ForConditionalGeneration, t.T5Config,
                 {**BYT5, "num_decoder_layers": 1}),
}  # fmt: skip
