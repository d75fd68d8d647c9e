"""Tiny models of OLMo Hybrid."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("olmo_hybrid",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "layer_types": ["linear_attention", "full_attention"],
    # Equal sizes: transformers writes the convolution in three parts of equal size, whatever the sizes of the heads.
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 5,
    **NONE,
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 50.0}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.olmo_hybrid", "language", t.OlmoHybridForCausalLM, t.OlmoHybridConfig, {**PLAIN, **fields}
    )


CASES = {
    "olmo_hybrid": case(),
    "olmo_hybrid, rates below one": case(linear_allow_neg_eigval=False, linear_conv_kernel_dim=2),
    "olmo_hybrid, rotary, biases": case(rope_parameters=PLAIN_ROPE, attention_bias=True),
    "olmo_hybrid, given heads": case(
        linear_num_key_heads=3, linear_num_value_heads=3, linear_key_head_dim=4, linear_value_head_dim=4
    ),
    "olmo_hybrid, one key for all heads, tied": case(
        num_key_value_heads=1, tie_word_embeddings=True, vocab_size=37
    ),
    "olmo_hybrid, four layers, eps": case(num_hidden_layers=4, layer_types=None, rms_norm_eps=0.1),
}
