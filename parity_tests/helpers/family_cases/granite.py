"""Granite 3 with grouped heads, factors, biases and every scaling of positions."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("granite",)
GRANITE = {
    **SIZES,
    "hidden_size": 20,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.3,
    "logits_scaling": 8,
    **NONE,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def case(**fields: object) -> Case:
    """A Granite model with these fields."""
    return Case("hf.llama", "language", t.GraniteForCausalLM, t.GraniteConfig, {**GRANITE, **fields})


CASES = {
    "granite": case(head_dim=6),
    "granite with default factors": Case(
        "hf.llama", "language", t.GraniteForCausalLM, t.GraniteConfig, {**SIZES, **NONE}
    ),
    "granite with biases, tied": case(
        head_dim=8, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, hidden_act="gelu"
    ),
    "granite with one key head": case(
        head_dim=4, num_key_value_heads=1, num_hidden_layers=3, vocab_size=37, rms_norm_eps=0.01
    ),
    "granite with yarn": case(head_dim=6, rope_parameters=YARN, tie_word_embeddings=True),
    "granite with llama3 rope": case(head_dim=6, rope_parameters=LLAMA3, residual_multiplier=1),
    "granite with linear rope": case(
        num_key_value_heads=4,
        head_dim=10,
        rope_parameters={"rope_type": "linear", "rope_theta": 30.0, "factor": 3.0},
        logits_scaling=0.3,
    ),
}
