"""Tiny models of MPT."""

import transformers as t

from parity_tests.helpers.family_cases.case import VOCAB, Case

MODULES = ("mpt",)
PLAIN = {"vocab_size": VOCAB, "d_model": 12, "n_layers": 2, "n_heads": 3, "max_seq_len": 16}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.mpt", "language", t.MptForCausalLM, t.MptConfig, {**PLAIN, **fields})


CASES = {
    "mpt": case(),
    "mpt, clipped, six heads": case(attn_config={"clip_qkv": 0.4}, n_heads=6),
    "mpt, untied, a factor": case(
        tie_word_embeddings=False, attn_config={"softmax_scale": 0.7}, vocab_size=37
    ),
    "mpt, eps, two heads": case(layer_norm_epsilon=0.1, n_heads=2),
    "mpt, fields without effect": case(
        expansion_ratio=2, learned_pos_emb=False, no_bias=False, logit_scale=0.5, attn_config={"alibi": False}
    ),
}
