"""Tiny models of Apertus."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("apertus",)
PLAIN = {**SIZES, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, **NONE}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.apertus", "language", t.ApertusForCausalLM, t.ApertusConfig, {**PLAIN, **fields})


CASES = {
    "apertus": case(),
    "apertus, another activation": case(hidden_act="relu2", num_key_value_heads=1),
    "apertus, biases, tied": case(attention_bias=True, tie_word_embeddings=True, vocab_size=37),
    "apertus, all heads, eps": case(num_key_value_heads=4, rms_norm_eps=0.1),
    "apertus, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}, intermediate_size=7
    ),
    "apertus, one layer": case(num_hidden_layers=1, hidden_size=12, num_attention_heads=2),
}
