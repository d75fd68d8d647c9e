"""BioGPT with and without a factor on the embeddings, tied and untied."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("biogpt",)


def case(**fields: object) -> Case:
    """A BioGPT model with these fields."""
    given = {**SIZES, "max_position_embeddings": 11, **NONE, **fields}
    return Case("hf.biogpt", "language", t.BioGptForCausalLM, t.BioGptConfig, given)


CASES = {
    "biogpt": case(),
    "biogpt without a factor, untied": case(scale_embedding=False, tie_word_embeddings=False),
    "biogpt with an unread epsilon": case(layer_norm_eps=0.1),
    "biogpt of another activation": case(hidden_act="relu", intermediate_size=7),
    "biogpt with one head, odd vocabulary": case(num_attention_heads=1, vocab_size=37, num_hidden_layers=3),
    "biogpt with many heads": case(num_attention_heads=5, hidden_size=30),
}
