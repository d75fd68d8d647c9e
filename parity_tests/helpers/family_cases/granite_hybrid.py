"""Tiny models of Granite 4, with and without experts."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("granitemoehybrid",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "num_local_experts": 0,
    "shared_intermediate_size": 20,
    "mamba_n_heads": 4,
    "mamba_d_state": 5,
    "mamba_chunk_size": 4,
    "attention_multiplier": 0.3,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    layout = "hf.granite_hybrid_moe" if fields.get("num_local_experts") else "hf.granite_hybrid"
    return Case(
        layout,
        "language",
        t.GraniteMoeHybridForCausalLM,
        t.GraniteMoeHybridConfig,
        {**PLAIN, **fields},
    )


CASES = {
    "granite_hybrid": case(),
    "granite_hybrid, factors": case(
        embedding_multiplier=3.0, logits_scaling=4.0, residual_multiplier=0.5, attention_multiplier=0.2
    ),
    "granite_hybrid, rotary, biases": case(
        position_embedding_type="rope", attention_bias=True, mamba_proj_bias=True, mamba_conv_bias=False
    ),
    "granite_hybrid, no attention, tied": case(layer_types=None, tie_word_embeddings=True, vocab_size=37),
    "granite_hybrid, one key for all heads": case(num_key_value_heads=1, mamba_n_groups=2, mamba_d_conv=2),
    "granite_hybrid, experts": case(num_local_experts=5, num_experts_per_tok=2, intermediate_size=7),
    "granite_hybrid, all experts, factors, tied": case(
        num_local_experts=3,
        num_experts_per_tok=3,
        intermediate_size=11,
        residual_multiplier=0.5,
        tie_word_embeddings=True,
        position_embedding_type="rope",
        hidden_act="silu",
    ),
    "granite_hybrid, eps, three layers": case(
        rms_norm_eps=0.1,
        num_hidden_layers=3,
        layer_types=["full_attention", "linear_attention"] * 1 + ["full_attention"],
    ),
}
