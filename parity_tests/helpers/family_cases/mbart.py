"""Tiny models of mBART, whose layers are pre-norm."""

import transformers as t

from parity_tests.helpers.family_cases.case import STACKS, Case

MODULES = ("mbart",)
WITHOUT_HEAD = ("MBartForQuestionAnswering", "MBartForSequenceClassification")
PLAIN = {**STACKS, "max_position_embeddings": 11}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.bart_biased", "sequence", t.MBartForConditionalGeneration, t.MBartConfig, {**PLAIN, **fields}
    )


CASES = {
    "mbart": case(),
    "mbart, scaled": case(scale_embedding=True, activation_function="relu"),
    "mbart, odd vocabulary": case(vocab_size=37, encoder_layers=1, d_model=18, decoder_attention_heads=6),
    "mbart, one head": case(encoder_attention_heads=1, decoder_attention_heads=1, decoder_ffn_dim=7),
    "mbart, long": case(max_position_embeddings=40, activation_function="gelu_new"),
    "mbart, many heads": case(d_model=30, encoder_attention_heads=15, decoder_attention_heads=10),
}
