"""Tiny models of Seed-OSS."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("seed_oss",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.llama", "language", t.SeedOssForCausalLM, t.SeedOssConfig, {**PLAIN, **fields})


CASES = {
    "seed_oss": case(),
    "seed_oss, one key for all heads": case(num_key_value_heads=1, vocab_size=37),
    "seed_oss, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
    "seed_oss, all biases, tied": case(attention_out_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "seed_oss, no biases": case(attention_bias=False),
    "seed_oss, head_dim": case(head_dim=10, num_key_value_heads=None),
}
