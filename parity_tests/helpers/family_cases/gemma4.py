"""Tiny models of Gemma 4's text model."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ()
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "global_head_dim": 12,
    "sliding_window": 4,  # no window may hold only padding: transformers gives NaN there
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "vocab_size_per_layer_input": 31,
    "hidden_size_per_layer_input": 5,
    **NONE,
}
ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
    "full_attention": {
        "rope_type": "proportional",
        "partial_rotary_factor": 0.5,
        "rope_theta": 100.0,
        "factor": 2.0,
    },
}


def case(**fields):
    """A model with these fields changed."""
    layout = "hf.gemma4_experts" if fields.get("enable_moe_block") else "hf.gemma4"
    return Case(layout, "language", t.Gemma4ForCausalLM, t.Gemma4TextConfig, {**PLAIN, **fields})


EXPERTS = {"enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 7}
CASES = {
    "gemma4": case(num_kv_shared_layers=2, rope_parameters=ROPE),
    "gemma4, keys as values, one key": case(attention_k_eq_v=True, num_global_key_value_heads=1),
    "gemma4, no vectors for layers, softcap": case(
        hidden_size_per_layer_input=0, final_logit_softcapping=3.0, vocab_size=37, tie_word_embeddings=False
    ),
    "gemma4, keys as values, shared, wide": case(
        attention_k_eq_v=True, num_kv_shared_layers=2, use_double_wide_mlp=True, attention_bias=True
    ),
    "gemma4, few vectors, eps, gelu": case(
        num_hidden_layers=7,
        layer_types=None,
        num_kv_shared_layers=1,
        rms_norm_eps=0.1,
        hidden_activation="gelu",
        rope_parameters=ROPE,
    ),
    "gemma4, experts": case(**EXPERTS, num_kv_shared_layers=2, rope_parameters=ROPE),
    "gemma4, all experts chosen, eps": case(
        **{**EXPERTS, "top_k_experts": 5}, rms_norm_eps=0.1, hidden_size_per_layer_input=0, vocab_size=37
    ),
    "gemma4, one expert, keys as values, wide": case(
        **{**EXPERTS, "top_k_experts": 1, "num_experts": 3},
        attention_k_eq_v=True,
        num_kv_shared_layers=2,
        use_double_wide_mlp=True,
        hidden_activation="gelu",
    ),
    "gemma4, eleven layers": case(num_hidden_layers=11, layer_types=None, hidden_size_per_layer_input=0),
}
