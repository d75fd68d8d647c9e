"""Tiny models of MPNet."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("mpnet",)
PLAIN = {**SIZES, "max_position_embeddings": 13}


def case(model=t.MPNetModel, **fields):
    """A model with these fields changed."""
    return Case("hf.mpnet", "encoder", model, t.MPNetConfig, {**PLAIN, **fields}, padding=1)


CASES = {
    "mpnet": case(),
    "mpnet, eps, three layers": case(layer_norm_eps=0.1, vocab_size=37, num_hidden_layers=3),
    "mpnet, masked language model": case(t.MPNetForMaskedLM, hidden_act="relu"),
    "mpnet, tanh": case(hidden_act="gelu_new", num_attention_heads=4, intermediate_size=7),
    "mpnet, another padding token": case(pad_token_id=2),
    "mpnet, one head": case(num_attention_heads=1, hidden_size=10, num_hidden_layers=1),
}
