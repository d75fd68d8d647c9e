"""Tiny models of Granite-MoE."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("granitemoe",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.3,
    "logits_scaling": 4.0,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.granite_moe", "language", t.GraniteMoeForCausalLM, t.GraniteMoeConfig, {**PLAIN, **fields}
    )


CASES = {
    "granite_moe": case(),
    "granite_moe, biases, tied": case(attention_bias=True, tie_word_embeddings=True, vocab_size=37),
    "granite_moe, one key for all heads, gelu": case(num_key_value_heads=1, hidden_act="gelu"),
    "granite_moe, no factors": Case(
        "hf.granite_moe",
        "language",
        t.GraniteMoeForCausalLM,
        t.GraniteMoeConfig,
        {**SIZES, **NONE, "num_local_experts": 3},
    ),
    "granite_moe, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
    "granite_moe, all experts, eps": case(num_experts_per_tok=5, rms_norm_eps=0.1),
}
