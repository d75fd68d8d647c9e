"""Tiny models of ELECTRA."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("electra",)
PLAIN = {**SIZES, "embedding_size": 8, "max_position_embeddings": 11}


def case(model=t.ElectraModel, **fields):
    """A model with these fields changed."""
    return Case("hf.electra", "encoder", model, t.ElectraConfig, {**PLAIN, **fields})


CASES = {
    "electra": case(),
    "electra, no projection": case(embedding_size=12, num_attention_heads=2),
    "electra, generator": case(t.ElectraForMaskedLM, vocab_size=37),
    "electra, generator, relu, eps": case(t.ElectraForMaskedLM, hidden_act="relu", layer_norm_eps=0.1),
    "electra, wide embeddings, three types": case(
        embedding_size=18, type_vocab_size=3, hidden_act="gelu_new"
    ),
    "electra, one head": case(num_attention_heads=1, hidden_size=10, num_hidden_layers=1),
}
