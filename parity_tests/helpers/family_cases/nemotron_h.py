"""Tiny models of Nemotron-H, with and without experts."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, VOCAB, Case

MODULES = ("nemotron_h",)
PLAIN = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 5,
    "intermediate_size": 20,
    "layers_block_type": ["linear_attention", "mlp", "full_attention"],
    "mamba_num_heads": 4,
    "mamba_head_dim": 3,
    "ssm_state_size": 5,
    "n_groups": 2,
    "chunk_size": 4,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.nemotron_h", "language", t.NemotronHForCausalLM, t.NemotronHConfig, {**PLAIN, **fields})


EXPERTS = {
    "layers_block_type": ["moe", "full_attention", "moe", "linear_attention"],
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 7,
    "moe_shared_expert_intermediate_size": 11,
}
CASES = {
    "nemotron_h": case(),
    "nemotron_h, biases": case(use_bias=True, mlp_bias=True, use_conv_bias=False),
    "nemotron_h, large steps, tied": case(time_step_min=0.8, tie_word_embeddings=True, vocab_size=37),
    "nemotron_h, one key for all heads": case(num_key_value_heads=1, conv_kernel=2, n_groups=1),
    "nemotron_h, networks first": case(
        layers_block_type=["mlp", "mlp", "full_attention", "linear_attention"], mlp_hidden_act="silu"
    ),
    "nemotron_h, experts": case(**EXPERTS, routed_scaling_factor=2.5),
    "nemotron_h, latent experts, groups, biases": case(
        **EXPERTS, moe_latent_size=9, mlp_bias=True, n_group=3, topk_group=2, norm_topk_prob=False
    ),
    "nemotron_h, experts, all chosen, silu": case(
        **{**EXPERTS, "num_experts_per_tok": 6}, mlp_hidden_act="silu"
    ),
    "nemotron_h, eps": case(layer_norm_epsilon=0.1, layers_block_type=["linear_attention", "mlp"]),
}
