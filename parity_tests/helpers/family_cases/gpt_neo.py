"""Tiny models of GPT-Neo."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, VOCAB, Case

MODULES = ("gpt_neo",)
PLAIN = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "num_layers": 2,
    "num_heads": 3,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 3,
    "max_position_embeddings": 16,
    **NONE,
}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.gpt_neo", "language", t.GPTNeoForCausalLM, t.GPTNeoConfig, {**PLAIN, **fields})


CASES = {
    "gpt_neo": case(),
    "gpt_neo, untied, odd sizes": case(tie_word_embeddings=False, intermediate_size=10, vocab_size=37),
    "gpt_neo, windows everywhere": case(attention_types=[[["local"], 2]], window_size=2, num_heads=1),
    "gpt_neo, two groups": case(
        attention_types=[[["local", "global"], 1], [["global"], 1]], num_layers=3, layer_norm_epsilon=0.1
    ),
    "gpt_neo, relu": case(activation_function="relu", attention_types=[[["global"], 2]]),
}
