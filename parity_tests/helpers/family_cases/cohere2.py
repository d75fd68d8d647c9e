"""Command R7B: windows with positions, and layers without positions."""

import transformers as t

from parity_tests.helpers.family_cases.case import Case
from parity_tests.helpers.family_cases.cohere import COHERE

MODULES = ("cohere2",)


def case(**fields: object) -> Case:
    """A Command R7B model with these fields."""
    given = {**COHERE, "sliding_window": 4, **fields}
    return Case("hf.cohere", "language", t.Cohere2ForCausalLM, t.Cohere2Config, given)


CASES = {
    "cohere2": case(layer_types=["sliding_attention", "full_attention"]),
    "cohere2 with the default pattern": case(num_hidden_layers=5),
    "cohere2 with windows alone": case(sliding_window=5, layer_norm_eps=0.01),
    "cohere2 without windows": case(layer_types=["full_attention"] * 2, num_key_value_heads=1),
    "cohere2 with biases, untied": case(
        attention_bias=True, tie_word_embeddings=False, logit_scale=0.8, num_key_value_heads=4
    ),
    "cohere2 with llama3 rope": case(
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 100.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        num_hidden_layers=3,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        vocab_size=37,
    ),
    "cohere2 of another activation": case(
        hidden_act="gelu_new", hidden_size=30, num_attention_heads=3, num_key_value_heads=3
    ),
}
