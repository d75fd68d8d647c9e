"""Tiny models of ModernBERT."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("modernbert",)
TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
PLAIN = {**SIZES, "num_hidden_layers": 4, "local_attention": 4, "pad_token_id": 0, **TOKENS}


def case(model=t.ModernBertModel, **fields):
    """A model with these fields changed."""
    return Case("hf.modernbert", "encoder", model, t.ModernBertConfig, {**PLAIN, **fields})


ROPE = {"full_attention": {"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20.0}}  # fmt: skip
CASES = {
    "modernbert": case(),
    "modernbert, biases": case(attention_bias=True, mlp_bias=True, norm_bias=True, vocab_size=37),
    "modernbert, two bases, linear scaling": case(rope_parameters=ROPE, hidden_activation="gelu_new"),
    "modernbert, masked language model": case(
        t.ModernBertForMaskedLM, classifier_activation="relu", norm_eps=0.1
    ),
    "modernbert, layer types": case(
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
        local_attention=7,
    ),
    "modernbert, one head, one layer": case(num_attention_heads=1, hidden_size=10, num_hidden_layers=1),
}
