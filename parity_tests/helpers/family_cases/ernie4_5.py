"""Tiny models of Ernie 4.5."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("ernie4_5",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.llama", "language", t.Ernie4_5ForCausalLM, t.Ernie4_5Config, {**PLAIN, **fields})


CASES = {
    "ernie4_5": case(),
    "ernie4_5, one key for all heads": case(num_key_value_heads=1, vocab_size=37),
    "ernie4_5, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
    "ernie4_5, biases, untied": case(use_bias=True, tie_word_embeddings=False),
    "ernie4_5, yarn": case(
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 100.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    ),
    "ernie4_5, head_dim": case(head_dim=10, num_key_value_heads=None),
}
