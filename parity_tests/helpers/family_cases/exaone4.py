"""Tiny models of Exaone 4."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("exaone4",)
PLAIN = {
    **SIZES,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": 3,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.olmo2", "language", t.Exaone4ForCausalLM, t.Exaone4Config, {**PLAIN, **fields})


CASES = {
    "exaone4": case(),
    "exaone4, one key for all heads": case(num_key_value_heads=1, vocab_size=37),
    "exaone4, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
    "exaone4, no windows": case(sliding_window=None, layer_types=["full_attention"] * 2),
    "exaone4, tied, every second layer full": case(tie_word_embeddings=True, sliding_window_pattern=2),
    "exaone4, layer types": case(layer_types=["full_attention", "sliding_attention"], hidden_act="gelu"),
}
