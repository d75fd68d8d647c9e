"""Tiny models of Mamba-2."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, VOCAB, Case

MODULES = ("mamba2",)
PLAIN = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "head_dim": 6,
    "state_size": 5,
    "n_groups": 2,
    "chunk_size": 4,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.mamba2", "language", t.Mamba2ForCausalLM, t.Mamba2Config, {**PLAIN, **fields})


CASES = {
    "mamba2": case(),
    "mamba2, tied, odd vocabulary": case(tie_word_embeddings=True, vocab_size=37),
    "mamba2, biases": case(use_bias=True, use_conv_bias=False, n_groups=1),
    "mamba2, one head": case(num_heads=1, head_dim=24, n_groups=1, conv_kernel=2),
    "mamba2, three times wider": case(expand=3, head_dim=9, n_groups=4),
    "mamba2, eps": case(layer_norm_epsilon=0.1, residual_in_fp32=False, num_hidden_layers=3),
}
