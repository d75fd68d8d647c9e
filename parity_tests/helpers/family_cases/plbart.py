"""Tiny models of PLBart."""

import transformers as t

from parity_tests.helpers.family_cases.case import STACKS, Case

MODULES = ("plbart",)
WITHOUT_HEAD = ("PLBartForSequenceClassification",)
PLAIN = {**STACKS, "max_position_embeddings": 11}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.bart_biased", "sequence", t.PLBartForConditionalGeneration, t.PLBartConfig, {**PLAIN, **fields}
    )


CASES = {
    "plbart": case(),
    "plbart, scaled": case(scale_embedding=False, activation_function="relu"),
    "plbart, odd vocabulary": case(vocab_size=37, encoder_layers=1, d_model=18, decoder_attention_heads=6),
    "plbart, one head": case(encoder_attention_heads=1, decoder_attention_heads=1, decoder_ffn_dim=7),
    "plbart, long": case(max_position_embeddings=40, activation_function="gelu_new"),
    "plbart, many heads": case(d_model=30, encoder_attention_heads=15, decoder_attention_heads=10),
}
