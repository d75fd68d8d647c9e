"""Tiny models of VaultGemma."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("vaultgemma",)
PLAIN = {
    **SIZES,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 4,  # no window may hold only padding: the eager form of transformers gives NaN there
    "query_pre_attn_scalar": 5,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.gemma", "language", t.VaultGemmaForCausalLM, t.VaultGemmaConfig, {**PLAIN, **fields})


CASES = {
    "vaultgemma": case(),
    "vaultgemma, no softcaps": case(attn_logit_softcapping=None, final_logit_softcapping=None),
    "vaultgemma, one key for all heads, untied": case(num_key_value_heads=1, tie_word_embeddings=False),
    "vaultgemma, small softcaps": case(attn_logit_softcapping=1.5, final_logit_softcapping=2.0),
    "vaultgemma, biases, eps": case(attention_bias=True, rms_norm_eps=0.1, vocab_size=37),
}
