"""Tiny models of Qwen3-Next."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("qwen3_next",)
PLAIN = {
    **SIZES,
    "hidden_size": 20,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 3,
    "layer_types": ["linear_attention", "full_attention"],
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 7,
    "shared_expert_intermediate_size": 9,
    **NONE,
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 50.0}
DENSE = {"mlp_only_layers": [0, 1]}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.qwen3_next", "language", t.Qwen3NextForCausalLM, t.Qwen3NextConfig, {**PLAIN, **fields})


CASES = {
    "qwen3_next": case(),
    "qwen3_next, dense": case(**DENSE, linear_num_key_heads=4, linear_conv_kernel_dim=2),
    "qwen3_next, linear layers only": case(layer_types=None, decoder_sparse_step=2, vocab_size=37),
    "qwen3_next, four layers, biases": case(
        num_hidden_layers=4, layer_types=None, attention_bias=True, mlp_only_layers=[1, 2]
    ),
    "qwen3_next, one key for all heads, tied": case(
        num_key_value_heads=1, linear_num_key_heads=1, tie_word_embeddings=True, norm_topk_prob=False
    ),
    "qwen3_next, all features turned, eps": case(
        **DENSE, rope_parameters={**PLAIN_ROPE, "partial_rotary_factor": 1.0}, rms_norm_eps=0.1
    ),
}
