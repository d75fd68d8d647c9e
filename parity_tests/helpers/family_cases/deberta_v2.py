"""Tiny models of DeBERTa 2 and 3."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("deberta_v2",)
PLAIN = {
    **SIZES,
    "max_position_embeddings": 13,
    "relative_attention": True,
    "position_buckets": 4,
    "max_relative_positions": 6,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}


def case(model=t.DebertaV2Model, **fields):
    """A model with these fields changed."""
    return Case("hf.deberta_v2", "encoder", model, t.DebertaV2Config, {**PLAIN, **fields})


CASES = {
    "deberta_v2": case(),
    "deberta_v2, own projections, types": case(
        share_att_key=False,
        type_vocab_size=2,
        norm_rel_ebd="none",
        max_relative_positions=-1,
        num_hidden_layers=3,
    ),
    "deberta_v2, no buckets, position embeddings": case(
        position_buckets=-1, max_relative_positions=4, position_biased_input=True, hidden_act="relu"
    ),
    "deberta_v2, content-to-position": case(
        share_att_key=False, pos_att_type="c2p", layer_norm_eps=0.1, num_attention_heads=2
    ),
    "deberta_v2, position-to-content": case(share_att_key=False, pos_att_type="p2c", vocab_size=37),
    "deberta_v2, no distances": case(
        t.DebertaV2ForMaskedLM,
        relative_attention=False,
        norm_rel_ebd="none",
        pos_att_type=None,
        position_biased_input=True,
    ),
}
