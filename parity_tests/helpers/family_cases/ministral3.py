"""Tiny models of Ministral 3."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("ministral3",)
YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 3,  # the temperature changes within the tokens of the tests
    "llama_4_scaling_beta": 0.3,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
PLAIN = {
    **SIZES,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 12,
    "rope_parameters": YARN,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.llama", "language", t.Ministral3ForCausalLM, t.Ministral3Config, {**PLAIN, **fields})


DEFAULT = {
    "rope_type": "default",
    "rope_theta": 50.0,
    "original_max_position_embeddings": 2,
    "llama_4_scaling_beta": 0.7,
}
CASES = {
    "ministral3": case(),
    "ministral3, default positions": case(rope_parameters=DEFAULT, num_key_value_heads=1, vocab_size=37),
    "ministral3, tied, windows": case(tie_word_embeddings=True, sliding_window=3),
    "ministral3, no temperature": case(rope_parameters={**YARN, "llama_4_scaling_beta": 0.0}),
    "ministral3, scales of yarn, eps": case(
        rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}, rms_norm_eps=0.1
    ),
    "ministral3, all heads, gelu": case(num_key_value_heads=4, hidden_act="gelu", num_hidden_layers=3),
}
