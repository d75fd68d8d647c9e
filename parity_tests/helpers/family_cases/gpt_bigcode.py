"""Tiny models of GPT-BigCode."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, VOCAB, Case

MODULES = ("gpt_bigcode",)
PLAIN = {"vocab_size": VOCAB, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 16, **NONE}


def case(**fields):
    """A model with these fields changed."""
    return Case(
        "hf.gpt_bigcode", "language", t.GPTBigCodeForCausalLM, t.GPTBigCodeConfig, {**PLAIN, **fields}
    )


CASES = {
    "gpt_bigcode": case(),
    "gpt_bigcode, a key for each head": case(multi_query=False, n_head=2),
    "gpt_bigcode, untied, odd sizes": case(tie_word_embeddings=False, n_inner=10, vocab_size=37),
    "gpt_bigcode, no factor, eps": case(scale_attn_weights=False, layer_norm_epsilon=0.1),
    "gpt_bigcode, relu, two heads": case(activation_function="relu", n_head=2),
}
