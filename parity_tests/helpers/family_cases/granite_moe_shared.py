"""Tiny models of Granite-MoE with a shared expert."""

import transformers as t

from parity_tests.helpers.family_cases.case import Case
from parity_tests.helpers.family_cases.granite_moe import PLAIN

MODULES = ("granitemoeshared",)


def case(**fields):
    """A model with these fields changed."""
    given = {**PLAIN, "shared_intermediate_size": 9, **fields}
    return Case("hf.granite_moe", "language", t.GraniteMoeSharedForCausalLM, t.GraniteMoeSharedConfig, given)


CASES = {
    "granite_moe_shared": case(),
    "granite_moe_shared, tied, linear scaling": case(
        tie_word_embeddings=True, rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
    "granite_moe_shared, no shared expert": case(shared_intermediate_size=0, num_experts_per_tok=3),
    "granite_moe_shared, biases, gelu": case(attention_bias=True, hidden_act="gelu", vocab_size=37),
    "granite_moe_shared, one key for all heads": case(num_key_value_heads=1, rms_norm_eps=0.1),
    "granite_moe_shared, all experts": case(num_experts_per_tok=5, residual_multiplier=1.0),
}
