"""Tiny models of GLM-4.5."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("glm4_moe",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "moe_intermediate_size": 7,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.glm4_moe", "language", t.Glm4MoeForCausalLM, t.Glm4MoeConfig, {**PLAIN, **fields})


CASES = {
    "glm4_moe": case(),
    "glm4_moe, biases, normalised queries and keys": case(attention_bias=True, use_qk_norm=True),
    "glm4_moe, groups": case(
        n_group=3, topk_group=2, num_experts_per_tok=3, routed_scaling_factor=2.5, n_shared_experts=2
    ),
    "glm4_moe, all features turned, tied": case(
        rope_parameters={"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 1.0},
        tie_word_embeddings=True,
        vocab_size=37,
    ),
    "glm4_moe, all layers sparse": case(first_k_dense_replace=0, norm_topk_prob=False),
    "glm4_moe, one key for all heads": case(num_key_value_heads=1, hidden_act="gelu", rms_norm_eps=0.1),
}
