"""Fewer heads of keys and values than of queries."""

from functools import partial

from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Paper, Part
from attention_bridge.catalogue.shared import HEADS_SELF, KEEP_SELF, SEQUENCE
from attention_bridge.oracles import heads as oracles

FOUR_HEADS = {**SIZES, "heads": 4}  # of 3 features, in two groups

HEADS_FAMILY = (
    Mechanism(
        name="GroupedQueryAttention",
        family="heads",
        file="heads/grouped_query.py",
        paper=Paper("Ainslie et al.", 2023, "https://arxiv.org/abs/2305.13245"),
        equation=r"\mathrm{softmax}\left(Q_h K_g^\top / \sqrt{d}\right) V_g, \quad g = \lfloor h G / H \rfloor",
        module=Part("GroupedQueryAttention", {"embed_dim": 12, "num_heads": 4, "num_kv_heads": 2}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        sizes=FOUR_HEADS,
        oracle=partial(oracles.grouped_query_attention, num_heads=4, num_kv_heads=2),
        peers=("transformers LlamaAttention",),
    ),
)
