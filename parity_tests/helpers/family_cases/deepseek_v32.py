"""Tiny models of DeepSeek-V3.2."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, VOCAB, Case

MODULES = ("deepseek_v32",)
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
    "num_experts_per_tok": 3,
    "n_group": 3,
    "topk_group": 2,
    "kv_lora_rank": 8,
    "q_lora_rank": 9,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "qk_nope_head_dim": 6,
    "first_k_dense_replace": 1,
    "index_topk": 3,
    "index_head_dim": 6,
    "index_n_heads": 8,
    **NONE,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 90.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 0.7,
    "mscale_all_dim": 0.9,
}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.deepseek_v32", "language", t.DeepseekV32ForCausalLM, t.DeepseekV32Config, {**PLAIN, **fields}
    )


CASES = {
    "deepseek_v32": case(),
    "deepseek_v32, yarn": case(rope_parameters=YARN, num_experts_per_tok=4),
    "deepseek_v32, all layers sparse, tied": case(
        first_k_dense_replace=0, tie_word_embeddings=True, vocab_size=37
    ),
    "deepseek_v32, all keys": case(index_topk=20, norm_topk_prob=False, rms_norm_eps=0.01),
    "deepseek_v32, other layers": case(
        num_hidden_layers=3, mlp_layer_types=["sparse", "dense", "sparse"], routed_scaling_factor=1.5
    ),
    "deepseek_v32, one group": case(n_group=1, topk_group=1, n_shared_experts=1, index_topk=4),
}
