"""Tiny models of Persimmon."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("persimmon",)
PLAIN = {**SIZES, "hidden_size": 24, **NONE}
ROPE = {"rope_type": "default", "rope_theta": 50.0}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.persimmon", "language", t.PersimmonForCausalLM, t.PersimmonConfig, {**PLAIN, **fields})


CASES = {
    "persimmon": case(),
    "persimmon, no norms, tied": case(qk_layernorm=False, tie_word_embeddings=True, vocab_size=37),
    "persimmon, one head, eps": case(num_attention_heads=1, layer_norm_eps=0.1, hidden_act="gelu"),
    "persimmon, all features turned": case(rope_parameters={**ROPE, "partial_rotary_factor": 1.0}),
    "persimmon, linear scaling": case(rope_parameters={**ROPE, "rope_type": "linear", "factor": 3.0}),
}
