"""Tiny models of XLM-RoBERTa XL."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("xlm_roberta_xl",)
PLAIN = {**SIZES, "max_position_embeddings": 13}


def case(model=t.XLMRobertaXLModel, padding=1, **fields):
    """A model with these fields changed."""
    return Case("hf.xlm_roberta_xl", "encoder", model, t.XLMRobertaXLConfig, {**PLAIN, **fields}, padding)


CASES = {
    "xlm_roberta_xl": case(),
    "xlm_roberta_xl, two types, eps": case(type_vocab_size=2, layer_norm_eps=0.1, vocab_size=37),
    "xlm_roberta_xl, masked language model": case(t.XLMRobertaXLForMaskedLM, hidden_act="relu"),
    "xlm_roberta_xl, three layers, tanh": case(hidden_act="gelu_new", num_hidden_layers=3),
    "xlm_roberta_xl, padding token 2": case(padding=2, pad_token_id=2),
    "xlm_roberta_xl, one head": case(num_attention_heads=1, hidden_size=10, num_hidden_layers=1),
}
