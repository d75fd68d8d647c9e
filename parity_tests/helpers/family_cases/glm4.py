"""Tiny models of GLM-4."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("glm4",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    **NONE,
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 50.0}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.glm4", "language", t.Glm4ForCausalLM, t.Glm4Config, {**PLAIN, **fields})


CASES = {
    "glm4": case(),
    "glm4, one key for all heads": case(num_key_value_heads=1, vocab_size=37),
    "glm4, linear scaling": case(rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}),
    "glm4, no biases, tied": case(attention_bias=False, tie_word_embeddings=True),
    "glm4, a quarter turned": case(rope_parameters={**PLAIN_ROPE, "partial_rotary_factor": 0.25}),
    "glm4, eps, gelu": case(rms_norm_eps=0.1, hidden_act="gelu"),
}
