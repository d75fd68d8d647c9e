"""Tiny models of RoFormer."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("roformer",)
PLAIN = {**SIZES, "hidden_size": 24, "num_attention_heads": 4, "max_position_embeddings": 13}


def case(model=t.RoFormerModel, **fields):
    """A model with these fields changed."""
    return Case("hf.roformer", "encoder", model, t.RoFormerConfig, {**PLAIN, **fields})


CASES = {
    "roformer": case(),
    "roformer, narrow embeddings": case(embedding_size=8),
    "roformer, one type, eps": case(type_vocab_size=1, layer_norm_eps=0.1, vocab_size=37),
    "roformer, masked language model": case(
        t.RoFormerForMaskedLM, hidden_act="relu", embedding_size=10, num_hidden_layers=3
    ),
    "roformer, three types, tanh": case(type_vocab_size=3, hidden_act="gelu_new"),
    "roformer, one head": case(num_attention_heads=1, hidden_size=10, num_hidden_layers=1),
}
