"""Tiny models of XLM-RoBERTa."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("xlm_roberta",)
PLAIN = {**SIZES, "max_position_embeddings": 13}


def case(model=t.XLMRobertaModel, padding=1, **fields):
    """A model with these fields changed."""
    return Case("hf.bert", "encoder", model, t.XLMRobertaConfig, {**PLAIN, **fields}, padding)


CASES = {
    "xlm_roberta": case(),
    "xlm_roberta, one type, eps": case(type_vocab_size=1, layer_norm_eps=0.1, vocab_size=37),
    "xlm_roberta, masked language model": case(t.XLMRobertaForMaskedLM, hidden_act="relu", type_vocab_size=1),
    "xlm_roberta, three types, tanh": case(type_vocab_size=3, hidden_act="gelu_new", num_hidden_layers=3),
    "xlm_roberta, padding token 2": case(padding=2, pad_token_id=2),
    "xlm_roberta, one head": case(num_attention_heads=1, hidden_size=10, num_hidden_layers=1),
}
