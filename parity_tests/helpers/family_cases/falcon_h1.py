"""Tiny models of Falcon-H1."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("falcon_h1",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_state": 5,
    "mamba_chunk_size": 4,
    "ssm_multipliers": [0.7, 1.3, 0.6, 1.7, 0.9],
    "mlp_multipliers": [0.8, 1.4],
    "key_multiplier": 0.4,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.falcon_h1", "language", t.FalconH1ForCausalLM, t.FalconH1Config, {**PLAIN, **fields})


CASES = {
    "falcon_h1": case(),
    "falcon_h1, factors": case(
        embedding_multiplier=3.0,
        lm_head_multiplier=0.25,
        attention_in_multiplier=0.7,
        attention_out_multiplier=1.2,
        ssm_in_multiplier=1.5,
        ssm_out_multiplier=0.3,
    ),
    "falcon_h1, biases": case(
        attention_bias=True, mlp_bias=True, mamba_proj_bias=True, projectors_bias=True, mamba_conv_bias=False
    ),
    "falcon_h1, norm after the gate, groups": case(
        mamba_rms_norm=True, mamba_norm_before_gate=False, mamba_n_groups=2, mamba_d_conv=2
    ),
    "falcon_h1, norm before the gate, tied": case(
        mamba_rms_norm=True, mamba_norm_before_gate=True, tie_word_embeddings=True, vocab_size=37
    ),
    "falcon_h1, expanded, no factors": case(
        mamba_d_ssm=None,
        mamba_expand=3,
        mamba_n_heads=6,
        mamba_d_head=12,
        ssm_multipliers=None,
        mlp_multipliers=None,
        projectors_bias=True,
    ),
    "falcon_h1, eps, three layers, wide heads": case(
        rms_norm_eps=0.1,
        num_hidden_layers=3,
        head_dim=10,
        num_key_value_heads=3,
        rope_parameters={"rope_type": "default", "rope_theta": 50.0},
    ),
}
