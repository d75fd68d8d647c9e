"""Tiny models of Jais 2."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("jais2",)
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
    return Case("hf.nemotron", "language", t.Jais2ForCausalLM, t.Jais2Config, {**PLAIN, **fields})


CASES = {
    "jais2": case(),
    "jais2, one key for all heads": case(num_key_value_heads=1, vocab_size=37),
    "jais2, linear scaling": case(rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}),
    "jais2, no biases, tied": case(attention_bias=False, mlp_bias=False, tie_word_embeddings=True),
    "jais2, gelu, eps": case(hidden_act="gelu", layer_norm_eps=0.1, attention_bias=False),
    "jais2, all heads, three layers": case(num_key_value_heads=None, head_dim=None, num_hidden_layers=3),
}
