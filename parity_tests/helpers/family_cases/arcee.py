"""Tiny models of Arcee."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("arcee",)
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
    return Case("hf.llama", "language", t.ArceeForCausalLM, t.ArceeConfig, {**PLAIN, **fields})


CASES = {
    "arcee": case(),
    "arcee, one key for all heads": case(num_key_value_heads=1, vocab_size=37),
    "arcee, linear scaling": case(rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}),
    "arcee, biases, tied": case(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "arcee, yarn": case(
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 100.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    ),
    "arcee, silu, all heads": case(hidden_act="silu", num_key_value_heads=None),
}
