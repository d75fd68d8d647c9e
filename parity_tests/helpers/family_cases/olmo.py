"""Tiny models of OLMo 1."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("olmo",)
PLAIN = {**SIZES, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, **NONE}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.llama", "language", t.OlmoForCausalLM, t.OlmoConfig, {**PLAIN, **fields})


CASES = {
    "olmo": case(),
    "olmo, clipped": case(clip_qkv=0.4, num_key_value_heads=1),
    "olmo, biases, tied": case(attention_bias=True, tie_word_embeddings=True, vocab_size=37),
    "olmo, all heads, gelu": case(num_key_value_heads=4, hidden_act="gelu", clip_qkv=1.0),
    "olmo, linear scaling": case(rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}),
}
