"""Tiny models of Qwen2-MoE."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("qwen2_moe",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 7,
    "shared_expert_intermediate_size": 9,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.qwen2_moe", "language", t.Qwen2MoeForCausalLM, t.Qwen2MoeConfig, {**PLAIN, **fields})


CASES = {
    "qwen2_moe": case(),
    "qwen2_moe, weights that sum to 1, tied": case(norm_topk_prob=True, tie_word_embeddings=True),
    "qwen2_moe, every other layer": case(num_hidden_layers=3, decoder_sparse_step=2, vocab_size=37),
    "qwen2_moe, a dense layer": case(num_hidden_layers=3, mlp_only_layers=[1], num_experts_per_tok=3),
    "qwen2_moe, windows, no biases": case(
        num_hidden_layers=3, use_sliding_window=True, sliding_window=3, max_window_layers=2, qkv_bias=False
    ),
    "qwen2_moe, one key for all heads": case(num_key_value_heads=1, hidden_act="gelu", rms_norm_eps=0.1),
}
