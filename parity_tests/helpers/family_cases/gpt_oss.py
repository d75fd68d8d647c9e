"""Tiny models of gpt-oss."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("gpt_oss",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "sliding_window": 3,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.gpt_oss", "language", t.GptOssForCausalLM, t.GptOssConfig, {**PLAIN, **fields})


CASES = {
    "gpt_oss": case(),
    "gpt_oss, one key for all heads, tied": case(
        num_key_value_heads=1, tie_word_embeddings=True, vocab_size=37
    ),
    "gpt_oss, yarn": case(
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 90.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "truncate": False,
        }
    ),
    "gpt_oss, no biases of attention, tight limit": case(attention_bias=False, swiglu_limit=0.5),
    "gpt_oss, other layers": case(
        num_hidden_layers=3, layer_types=["full_attention", "full_attention", "sliding_attention"]
    ),
    "gpt_oss, all experts, no scaling": case(
        num_experts_per_tok=5,
        head_dim=10,
        rms_norm_eps=0.1,
        rope_parameters={"rope_type": "default", "rope_theta": 50.0},
    ),
}
