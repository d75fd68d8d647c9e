"""Tiny models of FlexOlmo."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("flex_olmo",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.flex_olmo", "language", t.FlexOlmoForCausalLM, t.FlexOlmoConfig, {**PLAIN, **fields})


CASES = {
    "flex_olmo": case(),
    "flex_olmo, weights that sum to 1, tied": case(norm_topk_prob=True, tie_word_embeddings=True),
    "flex_olmo, biases, odd vocabulary": case(attention_bias=True, vocab_size=37),
    "flex_olmo, one key for all heads": case(num_key_value_heads=1, num_experts_per_tok=5),
    "flex_olmo, every head, gelu": case(num_key_value_heads=None, hidden_act="gelu", rms_norm_eps=0.1),
    "flex_olmo, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
}
