"""Tiny models of StableLM."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("stablelm",)
PLAIN = {**SIZES, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, **NONE}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 50.0}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.nemotron", "language", t.StableLmForCausalLM, t.StableLmConfig, {**PLAIN, **fields})


CASES = {
    "stablelm": case(),
    "stablelm, one key for all heads": case(num_key_value_heads=1, vocab_size=37),
    "stablelm, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
    "stablelm, parallel": case(use_parallel_residual=True),
    "stablelm, normed queries and keys": case(qk_layernorm=True),
    "stablelm, one normed key": case(qk_layernorm=True, num_key_value_heads=1),
    "stablelm, biases, tied": case(use_qkv_bias=True, tie_word_embeddings=True),
    "stablelm, half turned, eps": case(
        rope_parameters={**PLAIN_ROPE, "partial_rotary_factor": 0.5},
        layer_norm_eps=0.1,
    ),
}
