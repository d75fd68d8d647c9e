"""Tiny models of Longformer, without global tokens."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("longformer",)
# Their global tokens depend on three separators in each text.
WITHOUT_HEAD = ("LongformerForQuestionAnswering", "LongformerForMultipleChoice")
PLAIN = {**SIZES, "max_position_embeddings": 18, "attention_window": 4, "pad_token_id": 1}


def case(model=t.LongformerModel, **fields):
    """A model with these fields changed."""
    given = {**PLAIN, **fields}
    return Case("hf.longformer", "encoder", model, t.LongformerConfig, given, has_maps=False)


CASES = {
    "longformer": case(),
    "longformer, window of six, one type": case(attention_window=6, type_vocab_size=1),
    "longformer, one window for each layer": case(
        attention_window=[4, 4, 4], num_hidden_layers=3, pad_token_id=0
    ),
    "longformer, window beyond the text, relu": case(attention_window=8, hidden_act="relu"),
    "longformer, one head, eps": case(num_attention_heads=1, vocab_size=37, layer_norm_eps=0.1),
    "longformer, narrow, gelu_new": case(hidden_size=8, num_attention_heads=2, hidden_act="gelu_new"),
}
