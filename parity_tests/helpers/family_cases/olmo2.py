"""Tiny models of OLMo 2."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("olmo2",)
PLAIN = {**SIZES, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, **NONE}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.olmo2", "language", t.Olmo2ForCausalLM, t.Olmo2Config, {**PLAIN, **fields})


CASES = {
    "olmo2": case(),
    "olmo2, tied, biases": case(tie_word_embeddings=True, attention_bias=True),
    "olmo2, one key for all heads": case(num_key_value_heads=1, rms_norm_eps=0.1),
    "olmo2, all heads, gelu": case(num_key_value_heads=None, hidden_act="gelu"),
    "olmo2, head_dim": case(head_dim=10),
    "olmo2, llama3 scaling, odd vocabulary": case(
        vocab_size=37,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
        },
    ),
}  # fmt: skip
