"""Tiny models of HyperCLOVA X."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("hyperclovax",)
PLAIN = {
    **SIZES,
    "hidden_size": 20,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.3,
    "logits_scaling": 0.125,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    given = {**PLAIN, **fields}
    return Case("hf.hyperclovax", "language", t.HyperCLOVAXForCausalLM, t.HyperCLOVAXConfig, given)


CASES = {
    "hyperclovax": case(),
    "hyperclovax, default factors": case(
        embedding_multiplier=1.0, residual_multiplier=1.0, attention_multiplier=None, logits_scaling=1.0
    ),
    "hyperclovax, two norms in a layer": case(use_post_norm=False, num_key_value_heads=1, vocab_size=37),
    "hyperclovax, biases, tied": case(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "hyperclovax, gelu, eps": case(hidden_act="gelu", rms_norm_eps=0.1, logits_scaling=4, head_dim=8),
    "hyperclovax, linear scaling": case(
        rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}, num_hidden_layers=3
    ),
}
