"""Tiny models of ERNIE."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("ernie",)
PLAIN = {**SIZES, "max_position_embeddings": 11, "use_task_id": True}


def case(model=t.ErnieModel, **fields):
    """A model with these fields changed."""
    return Case("hf.ernie", "encoder", model, t.ErnieConfig, {**PLAIN, **fields})


CASES = {
    "ernie": case(),
    "ernie, no tasks": case(use_task_id=False, vocab_size=37, type_vocab_size=4),
    "ernie, masked language model": case(t.ErnieForMaskedLM, hidden_act="relu", task_type_vocab_size=2),
    "ernie, tanh, eps": case(hidden_act="gelu_new", layer_norm_eps=0.1, num_attention_heads=2),
    "ernie, one head": case(num_attention_heads=1, hidden_size=10, num_hidden_layers=1),
    "ernie, one task, three layers": case(task_type_vocab_size=1, num_hidden_layers=3),
}
