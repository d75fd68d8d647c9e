"""GPT-J with shares of rotated features, tied and untied."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, VOCAB, Case

MODULES = ("gptj",)
GPTJ = {
    "vocab_size": VOCAB,
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 3,
    "n_inner": 20,
    "n_positions": 11,
    "rotary_dim": 4,
    **NONE,
}


def case(**fields: object) -> Case:
    """A GPT-J model with these fields."""
    return Case("hf.gptj", "language", t.GPTJForCausalLM, t.GPTJConfig, {**GPTJ, **fields})


CASES = {
    "gptj": case(),
    "gptj, tied": case(tie_word_embeddings=True),
    "gptj with all features rotated": case(rotary_dim=8),
    "gptj with wide layers": case(n_inner=None, num_hidden_layers=1, layer_norm_epsilon=0.01),
    "gptj of another activation": case(activation_function="relu", n_head=4, rotary_dim=2),
    "gptj with one head, odd vocabulary": case(n_head=1, rotary_dim=10, vocab_size=37, n_layer=3),
}
