"""Tiny models of DeBERTa 1."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("deberta",)
PLAIN = {
    **SIZES,
    "max_position_embeddings": 13,
    "relative_attention": True,
    "max_relative_positions": -1,
    "pos_att_type": "c2p|p2c",
    "position_biased_input": False,
}


def case(model=t.DebertaModel, **fields):
    """A model with these fields changed."""
    return Case("hf.deberta", "encoder", model, t.DebertaConfig, {**PLAIN, **fields})


CASES = {
    "deberta": case(),
    "deberta, distances beyond the last, types": case(
        max_relative_positions=3, type_vocab_size=2, num_hidden_layers=3
    ),
    "deberta, content-to-position": case(pos_att_type=["c2p"], layer_norm_eps=0.1, num_attention_heads=2),
    "deberta, position-to-content": case(pos_att_type=["p2c"], vocab_size=37, position_biased_input=True),
    "deberta, the new head, relu": case(t.DebertaForMaskedLM, legacy=False, hidden_act="relu"),
    "deberta, no distances": case(
        t.DebertaForMaskedLM, relative_attention=False, pos_att_type=None, position_biased_input=True
    ),
}
