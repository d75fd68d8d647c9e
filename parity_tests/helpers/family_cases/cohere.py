"""Command R and Command R7B with grouped heads, norms of heads, windows and layers without positions."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("cohere",)
COHERE = {**SIZES, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, **NONE}


def case(**fields: object) -> Case:
    """A Command R model with these fields."""
    return Case("hf.cohere", "language", t.CohereForCausalLM, t.CohereConfig, {**COHERE, **fields})


CASES = {
    "cohere": case(),
    "cohere with norms of heads": case(use_qk_norm=True, layer_norm_eps=0.01),
    "cohere with norms of heads, one key head": case(use_qk_norm=True, num_key_value_heads=1, head_dim=8),
    "cohere with biases, untied": case(attention_bias=True, tie_word_embeddings=False, logit_scale=0.8),
    "cohere with wide heads": case(head_dim=10, num_hidden_layers=3, vocab_size=37),
    "cohere with linear rope": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 30.0, "factor": 3.0}, hidden_act="gelu"
    ),
    "cohere with yarn": case(
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 100.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    ),
}
