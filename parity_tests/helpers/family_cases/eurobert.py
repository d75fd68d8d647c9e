"""Tiny models of EuroBERT."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("eurobert",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    **NONE,
}


def case(model=t.EuroBertModel, **fields):
    """A model with these fields changed."""
    return Case("hf.eurobert", "encoder", model, t.EuroBertConfig, {**PLAIN, **fields})


CASES = {
    "eurobert": case(),
    "eurobert, biases, eps": case(attention_bias=True, mlp_bias=True, rms_norm_eps=0.1, vocab_size=37),
    "eurobert, masked language model": case(t.EuroBertForMaskedLM, hidden_act="gelu", head_dim=None),
    "eurobert, masked language model, biases": case(
        t.EuroBertForMaskedLM, mlp_bias=True, num_key_value_heads=1
    ),
    "eurobert, tied": case(t.EuroBertForMaskedLM, tie_word_embeddings=True, num_key_value_heads=4),
    "eurobert, tied, biases": case(t.EuroBertForMaskedLM, tie_word_embeddings=True, mlp_bias=True),
    "eurobert, linear scaling, one layer": case(
        num_hidden_layers=1, rope_parameters={"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
    ),
}
