"""Tiny models of Qwen3-MoE."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("qwen3_moe",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "moe_intermediate_size": 7,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.qwen2_moe", "language", t.Qwen3MoeForCausalLM, t.Qwen3MoeConfig, {**PLAIN, **fields})


CASES = {
    "qwen3_moe": case(),
    "qwen3_moe, weights that sum to 1, tied": case(norm_topk_prob=True, tie_word_embeddings=True),
    "qwen3_moe, every other layer": case(num_hidden_layers=3, decoder_sparse_step=2, vocab_size=37),
    "qwen3_moe, a dense layer": case(num_hidden_layers=3, mlp_only_layers=[1], num_experts_per_tok=3),
    "qwen3_moe, windows, biases": case(use_sliding_window=True, sliding_window=3, attention_bias=True),
    "qwen3_moe, one key for all heads": case(num_key_value_heads=1, head_dim=10, hidden_act="gelu"),
}
