"""Tiny models of Nemotron."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("nemotron",)
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
    return Case("hf.nemotron", "language", t.NemotronForCausalLM, t.NemotronConfig, {**PLAIN, **fields})


CASES = {
    "nemotron": case(),
    "nemotron, one key for all heads": case(num_key_value_heads=1, vocab_size=37),
    "nemotron, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
    "nemotron, biases, tied": case(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "nemotron, gelu, eps": case(hidden_act="gelu", norm_eps=0.1),
    "nemotron, all features turned": case(rope_parameters={**PLAIN_ROPE, "partial_rotary_factor": 1.0}),
}
