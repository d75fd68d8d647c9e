"""Tiny models of ESM-2."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("esm",)
PLAIN = {
    **SIZES,
    "pad_token_id": 1,
    "mask_token_id": 5,
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "max_position_embeddings": 16,
}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.esm",
        "encoder",
        t.EsmForMaskedLM,
        t.EsmConfig,
        {**PLAIN, "hidden_size": 24, "num_attention_heads": 4, **fields},
        1,
    )


CASES = {
    "esm": case(),
    "esm, another mask token": case(mask_token_id=9, vocab_size=37, num_hidden_layers=3),
    "esm, no token dropout": case(token_dropout=False, layer_norm_eps=0.1),
    "esm, normalised embeddings": case(emb_layer_norm_before=True, intermediate_size=7),
    "esm, base 30": case(rope_theta=30.0, mask_token_id=12),
    "esm, one head": case(
        num_attention_heads=1, hidden_size=10, num_hidden_layers=1, emb_layer_norm_before=True
    ),
}
