"""Tiny models of Pegasus, whose files have tables of positions."""

import transformers as t

from parity_tests.helpers.family_cases.case import STACKS, Case

MODULES = ("pegasus",)
PLAIN = {**STACKS, "max_position_embeddings": 11}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.bart_biased", "sequence", t.PegasusForConditionalGeneration, t.PegasusConfig, {**PLAIN, **fields}
    )


CASES = {
    "pegasus": case(),
    "pegasus, scaled": case(scale_embedding=True, activation_function="relu"),
    "pegasus, odd vocabulary": case(vocab_size=37, encoder_layers=1, d_model=18, decoder_attention_heads=6),
    "pegasus, one head": case(encoder_attention_heads=1, decoder_attention_heads=1, decoder_ffn_dim=7),
    "pegasus, long": case(max_position_embeddings=40, activation_function="gelu_new"),
    "pegasus, many heads": case(d_model=30, encoder_attention_heads=15, decoder_attention_heads=10),
}
