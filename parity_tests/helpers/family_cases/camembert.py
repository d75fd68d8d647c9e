"""Tiny models of CamemBERT."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("camembert",)
PLAIN = {**SIZES, "max_position_embeddings": 13}


def case(model=t.CamembertModel, padding=1, **fields):
    """A model with these fields changed."""
    return Case("hf.bert", "encoder", model, t.CamembertConfig, {**PLAIN, **fields}, padding)


CASES = {
    "camembert": case(),
    "camembert, one type, eps": case(type_vocab_size=1, layer_norm_eps=0.1, vocab_size=37),
    "camembert, masked language model": case(t.CamembertForMaskedLM, hidden_act="silu"),
    "camembert, three types, tanh": case(type_vocab_size=3, hidden_act="gelu_new", num_hidden_layers=3),
    "camembert, padding token 2": case(padding=2, pad_token_id=2),
    "camembert, one head": case(num_attention_heads=1, hidden_size=10, num_hidden_layers=1),
}
