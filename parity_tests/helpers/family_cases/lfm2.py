"""Tiny models of LFM2."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("lfm2",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "layer_types": ["conv", "full_attention"],
    "block_multiple_of": 5,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.lfm2", "language", t.Lfm2ForCausalLM, t.Lfm2Config, {**PLAIN, **fields})


CASES = {
    "lfm2": case(),
    "lfm2, biases, untied": case(conv_bias=True, tie_word_embeddings=False, vocab_size=37),
    "lfm2, one key for all heads": case(num_key_value_heads=1, conv_L_cache=4, block_ffn_dim_multiplier=1.7),
    "lfm2, attention by number": case(layer_types=None, full_attn_idxs=[0], conv_L_cache=2),
    "lfm2, convolutions only": case(layer_types=["conv"] * 3, num_hidden_layers=3, norm_eps=0.1),
    "lfm2, given features": case(
        block_auto_adjust_ff_dim=False, rope_parameters={"rope_type": "default", "rope_theta": 50.0}
    ),
}
