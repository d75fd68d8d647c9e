"""Tiny models of DeepSeek-V2."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, VOCAB, Case

MODULES = ("deepseek_v2",)
PLAIN = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "intermediate_size": 20,
    "moe_intermediate_size": 7,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 8,
    "q_lora_rank": 9,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "qk_nope_head_dim": 6,
    "first_k_dense_replace": 1,
    **NONE,
}
GROUPED = {"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 90.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 0.7,
    "mscale_all_dim": 0.7,
}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.deepseek_v3", "language", t.DeepseekV2ForCausalLM, t.DeepseekV2Config, {**PLAIN, **fields}
    )


CASES = {
    "deepseek_v2": case(),
    "deepseek_v2, groups": case(**GROUPED, routed_scaling_factor=2.5),
    "deepseek_v2, no latent of queries, tied": case(
        q_lora_rank=None, tie_word_embeddings=True, vocab_size=37
    ),
    "deepseek_v2, yarn": case(rope_parameters=YARN, num_experts_per_tok=6),
    "deepseek_v2, all layers sparse": case(first_k_dense_replace=0, n_shared_experts=1, v_head_dim=8),
    "deepseek_v2, one group of two": case(**{**GROUPED, "n_group": 2, "topk_group": 1}, rms_norm_eps=0.01),
}
