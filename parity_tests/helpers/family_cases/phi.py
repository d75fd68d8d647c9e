"""Phi with grouped heads, shares of rotated features, norms of heads and every scaling of positions."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("phi",)


def rotary(share: float, **others: object) -> dict[str, object]:
    """Parameters of rotary positions for a share of each head's features."""
    return {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": share, **others}


def case(**fields: object) -> Case:
    """A Phi model with these fields."""
    given = {**SIZES, "hidden_size": 24, **NONE, **fields}
    return Case("hf.phi", "language", t.PhiForCausalLM, t.PhiConfig, given)


CASES = {
    "phi": case(),
    "phi with norms of heads": case(qk_layernorm=True, layer_norm_eps=0.01),
    "phi with grouped heads, tied": case(
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, rope_parameters=rotary(0.7)
    ),
    "phi with all features rotated": case(
        num_attention_heads=4, num_key_value_heads=1, rope_parameters=rotary(1.0), vocab_size=37
    ),
    "phi with linear rope": case(
        rope_parameters=rotary(0.5, rope_type="linear", factor=3.0), num_hidden_layers=3
    ),
    "phi with yarn": case(
        rope_parameters=rotary(0.8, rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
    ),
    "phi of another activation": case(hidden_act="relu", num_attention_heads=2, hidden_size=16),
}
