"""Tiny models of BlenderBot-small, whose decoder normalises its embeddings before it adds positions."""

import transformers as t

from parity_tests.helpers.family_cases.case import STACKS, Case

MODULES = ("blenderbot_small",)
PLAIN = {**STACKS, "max_position_embeddings": 11}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.bart_biased",
        "sequence",
        t.BlenderbotSmallForConditionalGeneration,
        t.BlenderbotSmallConfig,
        {**PLAIN, **fields},
    )


CASES = {
    "blenderbot_small": case(),
    "blenderbot_small, scaled": case(scale_embedding=True, activation_function="relu"),
    "blenderbot_small, odd vocabulary": case(
        vocab_size=37, encoder_layers=1, d_model=18, decoder_attention_heads=6
    ),
    "blenderbot_small, one head": case(
        encoder_attention_heads=1, decoder_attention_heads=1, decoder_ffn_dim=7
    ),
    "blenderbot_small, long": case(max_position_embeddings=40, activation_function="gelu_new"),
    "blenderbot_small, many heads": case(d_model=30, encoder_attention_heads=15, decoder_attention_heads=10),
}
