"""Tiny models of SmolLM3."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("smollm3",)
PLAIN = {**SIZES, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, **NONE}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.llama", "language", t.SmolLM3ForCausalLM, t.SmolLM3Config, {**PLAIN, **fields})


CASES = {
    "smollm3": case(num_hidden_layers=4),
    "smollm3, untied, biases": case(tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "smollm3, first layer without positions": case(no_rope_layers=[0, 1], num_key_value_heads=4),
    "smollm3, windows": case(use_sliding_window=True, sliding_window=3, no_rope_layer_interval=2),
    "smollm3, windows elsewhere": case(
        use_sliding_window=True, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
    "smollm3, linear scaling, odd vocabulary": case(
        vocab_size=37,
        hidden_act="gelu",
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0},
    ),
    "smollm3, head_dim": case(head_dim=10, num_key_value_heads=1, no_rope_layer_interval=1),
}
