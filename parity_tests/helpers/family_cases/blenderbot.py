"""Tiny models of BlenderBot, whose layers are pre-norm and whose embeddings have no norm."""

import transformers as t

from parity_tests.helpers.family_cases.case import STACKS, Case

MODULES = ("blenderbot",)
PLAIN = {**STACKS, "max_position_embeddings": 11}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.bart_biased",
        "sequence",
        t.BlenderbotForConditionalGeneration,
        t.BlenderbotConfig,
        {**PLAIN, **fields},
    )


CASES = {
    "blenderbot": case(),
    "blenderbot, scaled": case(scale_embedding=True, activation_function="relu"),
    "blenderbot, odd vocabulary": case(
        vocab_size=37, encoder_layers=1, d_model=18, decoder_attention_heads=6
    ),
    "blenderbot, one head": case(encoder_attention_heads=1, decoder_attention_heads=1, decoder_ffn_dim=7),
    "blenderbot, long": case(max_position_embeddings=40, activation_function="gelu_new"),
    "blenderbot, many heads": case(d_model=30, encoder_attention_heads=15, decoder_attention_heads=10),
}
