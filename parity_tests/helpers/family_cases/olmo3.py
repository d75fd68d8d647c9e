"""Tiny models of OLMo 3."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("olmo3",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": 3,
    **NONE,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.olmo2", "language", t.Olmo3ForCausalLM, t.Olmo3Config, {**PLAIN, **fields})


CASES = {
    "olmo3": case(num_hidden_layers=4),
    "olmo3, tied, biases": case(tie_word_embeddings=True, attention_bias=True),
    "olmo3, windows only": case(layer_types=["sliding_attention"] * 2, num_key_value_heads=1),
    "olmo3, layer types": case(layer_types=["full_attention", "sliding_attention"], hidden_act="gelu"),
    "olmo3, yarn in full layers": case(
        layer_types=["full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": YARN,
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
        },
    ),
    "olmo3, head_dim, odd vocabulary": case(head_dim=10, vocab_size=37, num_key_value_heads=None),
}
