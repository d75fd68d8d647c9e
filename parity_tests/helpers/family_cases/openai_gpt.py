"""Tiny models of the first GPT."""

import transformers as t

from parity_tests.helpers.family_cases.case import VOCAB, Case

MODULES = ("openai",)
PLAIN = {"vocab_size": VOCAB, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 16}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.openai_gpt", "language", t.OpenAIGPTLMHeadModel, t.OpenAIGPTConfig, {**PLAIN, **fields})


CASES = {
    "openai_gpt": case(),
    "openai_gpt, untied": case(tie_word_embeddings=False, vocab_size=37),
    "openai_gpt, relu, one head": case(afn="relu", n_head=1),
    "openai_gpt, silu, eps": case(afn="silu", layer_norm_epsilon=0.1),
}
