"""Tiny models of Kimi Linear."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("kimi_linear",)
PLAIN = {
    **SIZES,
    "num_key_value_heads": 3,
    "linear_num_heads": 2,
    "linear_head_dim": 5,
    "layer_types": ["linear_attention", "full_attention"],
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 7,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.kimi_linear", "language", t.KimiLinearForCausalLM, t.KimiLinearConfig, {**PLAIN, **fields}
    )


CASES = {
    "kimi_linear": case(),
    "kimi_linear, dense": case(mlp_layer_types=["dense", "dense"], linear_conv_kernel_dim=2),
    "kimi_linear, latent queries": case(q_lora_rank=9, norm_topk_prob=False, vocab_size=37),
    "kimi_linear, groups of experts": case(
        n_group=3, topk_group=2, n_shared_experts=2, mlp_layer_types=["sparse", "sparse"]
    ),
    "kimi_linear, linear layers only": case(layer_types=None, num_hidden_layers=3, rms_norm_eps=0.1),
    "kimi_linear, attention only": case(layer_types=["full_attention"] * 2, routed_scaling_factor=0.7),
}
