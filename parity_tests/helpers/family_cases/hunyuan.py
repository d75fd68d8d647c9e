"""Tiny models of HunYuan's dense models."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("hunyuan_v1_dense",)
PLAIN = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, **NONE}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.hunyuan", "language", t.HunYuanDenseV1ForCausalLM, t.HunYuanDenseV1Config, {**PLAIN, **fields}
    )


CASES = {
    "hunyuan": case(),
    "hunyuan, larger base": case(
        rope_parameters={"rope_type": "dynamic", "rope_theta": 50.0, "alpha": 20.0, "factor": 1.0}
    ),
    "hunyuan, one key for all heads": case(num_key_value_heads=1, vocab_size=37),
    "hunyuan, biases, tied": case(attention_bias=True, tie_word_embeddings=True),
    "hunyuan, eps, linear scaling": case(
        rms_norm_eps=0.1, rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
}
