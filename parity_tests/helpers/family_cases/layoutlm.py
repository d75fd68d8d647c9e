"""Tiny models of LayoutLM 1; without boxes, all coordinates are 0."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("layoutlm",)
PLAIN = {**SIZES, "max_position_embeddings": 11, "max_2d_position_embeddings": 9}


def case(model=t.LayoutLMModel, **fields):
    """A model with these fields changed."""
    return Case("hf.layoutlm", "encoder", model, t.LayoutLMConfig, {**PLAIN, **fields})


CASES = {
    "layoutlm": case(),
    "layoutlm, one type, relu": case(type_vocab_size=1, hidden_act="relu"),
    "layoutlm, one coordinate, eps": case(max_2d_position_embeddings=1, layer_norm_eps=0.1),
    "layoutlm, one head": case(num_attention_heads=1, vocab_size=37, num_hidden_layers=3),
    "layoutlm, five types, gelu_new": case(type_vocab_size=5, hidden_act="gelu_new"),
    "layoutlm, narrow": case(hidden_size=8, num_attention_heads=2, intermediate_size=5),
}
