"""Tiny models of XLNet."""

import transformers as t

from parity_tests.helpers.family_cases.case import VOCAB, Case

MODULES = ("xlnet",)
WITHOUT_HEAD = ("XLNetForQuestionAnswering",)  # it searches for answers with beams
PLAIN = {
    "vocab_size": VOCAB,
    "d_model": 12,
    "n_layer": 2,
    "n_head": 3,
    "d_inner": 20,
    "pad_token_id": 0,
}


def case(model=t.XLNetModel, **fields):
    """A model with these fields changed."""
    return Case("hf.xlnet", "encoder", model, t.XLNetConfig, {**PLAIN, **fields})


CASES = {
    "xlnet": case(),
    "xlnet, relu, eps": case(ff_activation="relu", layer_norm_eps=0.1, vocab_size=37),
    "xlnet, language model": case(t.XLNetLMHeadModel, ff_activation="gelu_new", n_layer=3),
    "xlnet, language model, untied": case(t.XLNetLMHeadModel, tie_word_embeddings=False),
    "xlnet, four heads, narrow": case(d_model=8, n_head=4, d_inner=5),
    "xlnet, one head": case(n_head=1, d_model=10, n_layer=1),
    "xlnet, memory of no tokens": case(mem_len=0, reuse_len=2, use_mems_eval=False, same_length=True),
}
