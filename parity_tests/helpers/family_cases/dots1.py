"""Tiny models of dots.llm1."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("dots1",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 7,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.glm4_moe", "language", t.Dots1ForCausalLM, t.Dots1Config, {**PLAIN, **fields})


CASES = {
    "dots1": case(),
    "dots1, biases, weights that sum to 1": case(attention_bias=True, norm_topk_prob=True, head_dim=10),
    "dots1, groups": case(n_group=3, topk_group=2, num_experts_per_tok=3, routed_scaling_factor=2.5),
    "dots1, windows, tied": case(
        num_hidden_layers=3,
        max_window_layers=2,
        sliding_window=3,
        tie_word_embeddings=True,
        vocab_size=37,
    ),
    "dots1, all layers sparse": case(first_k_dense_replace=0, n_shared_experts=1),
    "dots1, one key for all heads": case(num_key_value_heads=1, hidden_act="gelu", rms_norm_eps=0.1),
}
