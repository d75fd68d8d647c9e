"""Tiny models of OLMoE."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("olmoe",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.qwen2_moe", "language", t.OlmoeForCausalLM, t.OlmoeConfig, {**PLAIN, **fields})


CASES = {
    "olmoe": case(),
    "olmoe, weights that sum to 1, tied": case(norm_topk_prob=True, tie_word_embeddings=True),
    "olmoe, biases, odd vocabulary": case(attention_bias=True, vocab_size=37),
    "olmoe, one key for all heads": case(num_key_value_heads=1, num_experts_per_tok=3),
    "olmoe, every head, gelu": case(num_key_value_heads=None, hidden_act="gelu", rms_norm_eps=0.1),
    "olmoe, yarn, all experts": case(
        num_experts_per_tok=6,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 90.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
}
