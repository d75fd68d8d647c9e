"""Tiny models of M2M-100 and NLLB, whose sinusoidal positions do not count padding tokens."""

import transformers as t

from parity_tests.helpers.family_cases.case import STACKS, Case

MODULES = ("m2m_100",)
PLAIN = {**STACKS, "max_position_embeddings": 11}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.bart", "sequence", t.M2M100ForConditionalGeneration, t.M2M100Config, {**PLAIN, **fields})


CASES = {
    "m2m_100": case(),
    "m2m_100, not scaled": case(scale_embedding=False, activation_function="gelu"),
    "m2m_100, odd vocabulary": case(vocab_size=37, encoder_layers=1, d_model=18, decoder_attention_heads=6),
    "m2m_100, another padding token": case(pad_token_id=1),
    "m2m_100, few positions": case(max_position_embeddings=3, encoder_attention_heads=1),
    "m2m_100, many heads": case(d_model=30, encoder_attention_heads=15, decoder_attention_heads=10),
}
