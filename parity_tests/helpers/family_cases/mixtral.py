"""Tiny models of Mixtral."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("mixtral",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.mixtral", "language", t.MixtralForCausalLM, t.MixtralConfig, {**PLAIN, **fields})


CASES = {
    "mixtral": case(),
    "mixtral, odd heads, one expert of three": case(
        head_dim=10, num_key_value_heads=1, num_local_experts=3, num_experts_per_tok=1
    ),
    "mixtral, windows, tied": case(sliding_window=3, tie_word_embeddings=True, vocab_size=37),
    "mixtral, all experts": case(num_experts_per_tok=5, rms_norm_eps=0.1),
    "mixtral, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
    "mixtral, gelu, every head": case(hidden_act="gelu", num_key_value_heads=4),
}
