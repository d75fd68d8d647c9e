"""Tiny models of Ministral."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("ministral",)
PLAIN = {
    **SIZES,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 3,
    **NONE,
}
KINDS = ["full_attention", "sliding_attention"]


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.llama", "language", t.MinistralForCausalLM, t.MinistralConfig, {**PLAIN, **fields})


CASES = {
    "ministral": case(layer_types=KINDS),
    "ministral, windows everywhere": case(num_key_value_heads=1, vocab_size=37),
    "ministral, tied, all heads": case(
        tie_word_embeddings=True, num_key_value_heads=4, layer_types=KINDS[::-1]
    ),
    "ministral, eps, gelu": case(rms_norm_eps=0.1, hidden_act="gelu", layer_types=KINDS),
}
