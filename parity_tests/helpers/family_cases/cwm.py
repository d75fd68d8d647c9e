"""Tiny models of CWM."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("cwm",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 3,
    **NONE,
    "bos_token_id": 1,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.llama", "language", t.CwmForCausalLM, t.CwmConfig, {**PLAIN, **fields})


CASES = {
    "cwm": case(),
    "cwm, other layers windowed": case(layer_types=["sliding_attention", "full_attention"], vocab_size=37),
    "cwm, linear scaling": case(rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}),
    "cwm, biases, tied": case(mlp_bias=True, tie_word_embeddings=True, num_key_value_heads=1),
    "cwm, gelu, eps": case(hidden_act="gelu", rms_norm_eps=0.1, sliding_window=4),
    "cwm, five layers": case(num_hidden_layers=5, num_key_value_heads=4),
}
