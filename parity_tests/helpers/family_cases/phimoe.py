"""Tiny models of Phi-3.5-MoE."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("phimoe",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 5,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.phimoe", "language", t.PhimoeForCausalLM, t.PhimoeConfig, {**PLAIN, **fields})


CASES = {
    "phimoe": case(),
    "phimoe, many experts near the best": case(router_jitter_noise=0.4, num_local_experts=7),
    "phimoe, biases, one key for all heads": case(
        attention_bias=True, lm_head_bias=True, num_key_value_heads=1, num_local_experts=6
    ),
    "phimoe, windows, tied": case(sliding_window=3, tie_word_embeddings=True, vocab_size=37),
    "phimoe, gelu, eps": case(hidden_act="gelu", rms_norm_eps=0.1, num_local_experts=2),
    "phimoe, every head": case(
        num_key_value_heads=4, hidden_size=32, router_jitter_noise=0.1, num_local_experts=6
    ),
}
