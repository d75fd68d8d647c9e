"""Tiny models of MiniMax M2."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("minimax_m2",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "rotary_dim": 4,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.minimax_m2", "language", t.MiniMaxM2ForCausalLM, t.MiniMaxM2Config, {**PLAIN, **fields})


CASES = {
    "minimax_m2": case(),
    "minimax_m2, all features turned": case(rotary_dim=8, num_experts_per_tok=3),
    "minimax_m2, one key for all heads, tied": case(
        num_key_value_heads=1, tie_word_embeddings=True, vocab_size=37
    ),
    "minimax_m2, odd heads": case(head_dim=10, rotary_dim=6, rms_norm_eps=0.1),
    "minimax_m2, all experts, gelu": case(num_experts_per_tok=6, hidden_act="gelu"),
    "minimax_m2, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
}
