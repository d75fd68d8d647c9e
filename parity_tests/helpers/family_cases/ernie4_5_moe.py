"""Tiny models of Ernie 4.5 MoE."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("ernie4_5_moe",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 7,
    "moe_num_experts": 6,
    "moe_k": 2,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.ernie4_5_moe", "language", t.Ernie4_5_MoeForCausalLM, t.Ernie4_5_MoeConfig, {**PLAIN, **fields}
    )


CASES = {
    "ernie4_5_moe": case(),
    "ernie4_5_moe, no shared experts, untied": case(moe_num_shared_experts=0, tie_word_embeddings=False),
    "ernie4_5_moe, some layers sparse": case(
        num_hidden_layers=4, moe_layer_interval=2, moe_layer_start_index=0, moe_layer_end_index=2
    ),
    "ernie4_5_moe, least sum of weights": case(moe_norm_min=0.7, moe_k=3, vocab_size=37),
    "ernie4_5_moe, odd heads": case(head_dim=10, num_key_value_heads=1, moe_num_shared_experts=1),
    "ernie4_5_moe, gelu, linear scaling": case(
        hidden_act="gelu", rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
}
