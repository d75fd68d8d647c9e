"""Tiny models of BigBird, with texts so short that each token attends to all."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("big_bird",)
WITHOUT_HEAD = ("BigBirdForQuestionAnswering",)  # its head has a feed-forward network and a norm
PLAIN = {
    **SIZES,
    "max_position_embeddings": 26,
    "attention_type": "block_sparse",
    "block_size": 2,
    "num_random_blocks": 1,
}


def case(model=t.BigBirdModel, **fields):
    """A model with these fields changed; transformers gives no maps if it began as a sparse model."""
    given = {**PLAIN, **fields}
    has_maps = given["attention_type"] == "original_full"
    return Case("hf.big_bird", "encoder", model, t.BigBirdConfig, given, has_maps=has_maps)


CASES = {
    "big_bird": case(),
    "big_bird, full": case(attention_type="original_full", block_size=1, num_random_blocks=0),
    "big_bird, one type, relu": case(type_vocab_size=1, hidden_act="relu", block_size=3),
    "big_bird, one head, eps": case(num_attention_heads=1, vocab_size=37, layer_norm_eps=0.1),
    "big_bird, narrow, gelu": case(hidden_size=8, num_attention_heads=2, hidden_act="gelu"),
    "big_bird, blocks beyond the positions": case(block_size=16, num_hidden_layers=3),
}
