"""Tiny models of Hunyuan MoE."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("hunyuan_v1_moe",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 6,
    "moe_topk": 2,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.hunyuan_moe", "language", t.HunYuanMoEV1ForCausalLM, t.HunYuanMoEV1Config, {**PLAIN, **fields}
    )


CASES = {
    "hunyuan_moe": case(),
    "hunyuan_moe, alpha": case(
        rope_parameters={"rope_type": "dynamic", "rope_theta": 70.0, "alpha": 5.0, "factor": 1.0}
    ),
    "hunyuan_moe, biases, tied": case(attention_bias=True, tie_word_embeddings=True, vocab_size=37),
    "hunyuan_moe, one key for all heads": case(num_key_value_heads=1, moe_topk=3, head_dim=10),
    "hunyuan_moe, gelu, eps": case(hidden_act="gelu", rms_norm_eps=0.1, num_key_value_heads=None),
    "hunyuan_moe, one of three experts": case(num_experts=3, moe_topk=1),
}
