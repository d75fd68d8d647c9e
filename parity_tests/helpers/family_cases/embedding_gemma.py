"""Tiny models of EmbeddingGemma, Gemma 3 as an encoder."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ()  # the cases of Gemma 3 show its task heads
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "head_dim": 8,
    "query_pre_attn_scalar": 9,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "use_bidirectional_attention": True,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.gemma", "encoder", t.Gemma3TextModel, t.Gemma3TextConfig, {**PLAIN, **fields})


CASES = {
    "embedding_gemma": case(),
    "embedding_gemma, one key, odd vocabulary": case(num_key_value_heads=1, vocab_size=37),
    "embedding_gemma, biases, neighbours": case(attention_bias=True, sliding_window=2),
    "embedding_gemma, linear scaling": case(
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100.0},
        },
        rms_norm_eps=0.1,
        hidden_activation="gelu",
    ),
}
