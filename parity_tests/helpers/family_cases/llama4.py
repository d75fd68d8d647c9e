"""Tiny text models of Llama 4."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ()  # the other classes of the module read images
PLAIN = {
    **SIZES,
    "num_hidden_layers": 3,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size_mlp": 13,
    "num_local_experts": 4,
    "no_rope_layer_interval": 3,
    "attention_chunk_size": 4,
    "floor_scale": 2,
    "attn_scale": 0.3,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.llama4", "language", t.Llama4ForCausalLM, t.Llama4TextConfig, {**PLAIN, **fields})


CASES = {
    "llama4": case(),
    "llama4, some layers dense": case(interleave_moe_layer_step=2, num_experts_per_tok=2),
    "llama4, no norms, no temperature, tied": case(
        use_qk_norm=False, attn_temperature_tuning=False, tie_word_embeddings=True, vocab_size=37
    ),
    "llama4, biases, one key for all heads": case(
        attention_bias=True, num_key_value_heads=1, moe_layers=[1], rms_norm_eps=0.1
    ),
    "llama4, chunks without rotation": case(no_rope_layers=[1, 0, 0], layer_types=["chunked_attention"] * 3),
    "llama4, llama3 scaling, gelu": case(
        hidden_act="gelu",
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 100.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
}
