"""Tiny models of Gemma 3n's text model."""

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
    "sliding_window": 4,  # no window may hold only padding: transformers gives NaN there
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 29,
    "hidden_size_per_layer_input": 5,
    "altup_num_inputs": 3,
    "laurel_rank": 7,
    **NONE,
}
ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0},
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.gemma3n", "language", t.Gemma3nForCausalLM, t.Gemma3nTextConfig, {**PLAIN, **fields})


CASES = {
    "gemma3n": case(activation_sparsity_pattern=[0.6, 0.0, 0.9, 0.0]),
    "gemma3n, another active part, own keys": case(
        altup_active_idx=1, num_kv_shared_layers=0, rope_parameters=ROPE
    ),
    "gemma3n, one part, one key": case(altup_num_inputs=1, num_key_value_heads=1, vocab_size=37),
    "gemma3n, widths, softcap, untied": case(
        intermediate_size=[20, 7, 11, 13], final_logit_softcapping=3.0, tie_word_embeddings=False
    ),
    "gemma3n, biases, eps, gelu": case(
        attention_bias=True, rms_norm_eps=0.1, hidden_activation="gelu", altup_num_inputs=2, laurel_rank=3
    ),
    "gemma3n, parts not scaled": case(altup_correct_scale=False),
    "gemma3n, eleven layers": case(num_hidden_layers=11, layer_types=None, altup_num_inputs=2),
}
