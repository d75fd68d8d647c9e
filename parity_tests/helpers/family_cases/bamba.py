"""Tiny models of Bamba."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("bamba",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "attn_layer_indices": [1],
    "mamba_n_heads": 4,
    "mamba_d_state": 5,
    "mamba_chunk_size": 4,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.bamba", "language", t.BambaForCausalLM, t.BambaConfig, {**PLAIN, **fields})


CASES = {
    "bamba": case(),
    "bamba, biases": case(attention_bias=True, mlp_bias=True, mamba_proj_bias=True, mamba_conv_bias=False),
    "bamba, no attention, tied": case(attn_layer_indices=None, tie_word_embeddings=True, vocab_size=37),
    "bamba, attention only": case(attn_layer_indices=[0, 1], num_key_value_heads=3),
    "bamba, groups": case(mamba_n_groups=2, mamba_expand=1, mamba_n_heads=6, mamba_d_head=4, mamba_d_conv=2),
    "bamba, eps, three layers": case(
        rms_norm_eps=0.1, num_hidden_layers=3, rope_parameters={"rope_type": "default", "rope_theta": 50.0}
    ),
}
