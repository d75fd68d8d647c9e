"""Tiny models of Helium."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("helium",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.llama", "language", t.HeliumForCausalLM, t.HeliumConfig, {**PLAIN, **fields})


CASES = {
    "helium": case(),
    "helium, one key for all heads": case(num_key_value_heads=1, vocab_size=37),
    "helium, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
    "helium, biases, tied": case(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "helium, eps, gelu": case(rms_norm_eps=0.1, hidden_act="gelu"),
    "helium, all heads": case(num_key_value_heads=4),
}
