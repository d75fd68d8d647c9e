"""Tiny models of Phi 3 and 4."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("phi3",)
PLAIN = {**SIZES, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, **NONE}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 70.0,
    "short_factor": [1.0, 1.2, 1.4],
    "long_factor": [2.0, 3.5, 5.0],
    "partial_rotary_factor": 0.75,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.phi3", "language", t.Phi3ForCausalLM, t.Phi3Config, {**PLAIN, **fields})


CASES = {
    "phi3": case(),
    "phi3, one key for all heads, tied": case(num_key_value_heads=1, tie_word_embeddings=True, vocab_size=37),
    "phi3, windows, odd heads": case(sliding_window=3, num_attention_heads=2, num_key_value_heads=2),
    "phi3, long text": case(
        rope_parameters=LONG, original_max_position_embeddings=3, max_position_embeddings=12, rms_norm_eps=0.1
    ),
    "phi3, short text": case(rope_parameters=LONG, max_position_embeddings=8192, hidden_act="gelu"),
    "phi3, a part of each head": case(
        rope_parameters={"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}
    ),
}
