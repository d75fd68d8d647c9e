"""Tiny models of Starcoder 2."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("starcoder2",)
PLAIN = {**SIZES, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, **NONE}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.starcoder2", "language", t.Starcoder2ForCausalLM, t.Starcoder2Config, {**PLAIN, **fields})


CASES = {
    "starcoder2": case(),
    "starcoder2, untied, no biases": case(tie_word_embeddings=False, use_bias=False),
    "starcoder2, windows": case(sliding_window=3, num_key_value_heads=1),
    "starcoder2, all heads, eps": case(num_key_value_heads=4, norm_epsilon=0.1, hidden_act="relu"),
    "starcoder2, odd vocabulary": case(vocab_size=37, head_dim=10),
    "starcoder2, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
}
