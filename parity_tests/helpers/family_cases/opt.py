"""OPT with norms before and after, projected token embeddings, and without biases."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, VOCAB, Case

MODULES = ("opt",)
OPT = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "ffn_dim": 20,
    "max_position_embeddings": 11,
    **NONE,
}


def case(**fields: object) -> Case:
    """An OPT model with these fields."""
    return Case("hf.opt", "language", t.OPTForCausalLM, t.OPTConfig, {**OPT, **fields})


CASES = {
    "opt": case(),
    "opt 350m: norms after, projected tokens": case(do_layer_norm_before=False, word_embed_proj_dim=8),
    "opt with projected tokens, untied": case(word_embed_proj_dim=16, tie_word_embeddings=False),
    "opt without biases": case(enable_bias=False, activation_function="gelu"),
    "opt with norms after, untied": case(do_layer_norm_before=False, tie_word_embeddings=False),
    "opt with one head, odd vocabulary": case(num_attention_heads=1, vocab_size=37, num_hidden_layers=3),
    "opt with many heads": case(num_attention_heads=6, hidden_size=30, ffn_dim=7),
}
