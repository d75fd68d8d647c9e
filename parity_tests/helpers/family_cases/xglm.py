"""XGLM with and without a factor on the embeddings, tied and untied."""

from typing import Any

import torch
import transformers as t
from transformers.models.xglm.modeling_xglm import XGLMAttention

from parity_tests.helpers.family_cases.case import NONE, VOCAB, Case

MODULES = ("xglm",)
XGLM = {
    "vocab_size": VOCAB,
    "d_model": 12,
    "num_layers": 2,
    "attention_heads": 3,
    "ffn_dim": 20,
    "max_position_embeddings": 11,
    **NONE,
}

FORWARD = XGLMAttention.forward


def in_own_dtype(self: Any, hidden_states: torch.Tensor, *given: Any, **named: Any) -> Any:
    """Attention of XGLM with the model's dtype as the default, without which it has no float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(hidden_states.dtype)
    try:
        return FORWARD(self, hidden_states, *given, **named)
    finally:
        torch.set_default_dtype(before)


XGLMAttention.forward = in_own_dtype


def case(**fields: object) -> Case:
    """An XGLM model with these fields."""
    return Case("hf.xglm", "language", t.XGLMForCausalLM, t.XGLMConfig, {**XGLM, **fields})


CASES = {
    "xglm": case(),
    "xglm without a factor, untied": case(scale_embedding=False, tie_word_embeddings=False),
    "xglm with another padding token": case(pad_token_id=1, activation_function="relu"),
    "xglm with few positions": case(max_position_embeddings=3, num_layers=1),
    "xglm with one head, odd vocabulary": case(attention_heads=1, vocab_size=37, num_layers=3),
    "xglm with many heads": case(attention_heads=5, d_model=30, ffn_dim=7),
}
