"""Tiny models of GLM."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("glm",)
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
    return Case("hf.glm", "language", t.GlmForCausalLM, t.GlmConfig, {**PLAIN, **fields})


CASES = {
    "glm": case(),
    "glm, one key for all heads": case(num_key_value_heads=1, vocab_size=37),
    "glm, linear scaling": case(rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}),
    "glm, no biases, tied": case(attention_bias=False, tie_word_embeddings=True),
    "glm, all features turned": case(rope_parameters={**PLAIN_ROPE, "partial_rotary_factor": 1.0}),
    "glm, eps, gelu": case(rms_norm_eps=0.1, hidden_act="gelu"),
}
