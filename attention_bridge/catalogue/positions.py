"""Position schemes, each held by a dot-product class."""

from functools import partial

import numpy as np

from attention_bridge.catalogue.mechanism import Mechanism, Paper, Part
from attention_bridge.catalogue.shared import EMBED, HEADS, HEADS_SELF, KEEP_SELF, SEQUENCE
from attention_bridge.oracles import heads
from attention_bridge.oracles import positions as positions_oracle

POSITIONS = np.array([[0, 1, 3, 4, 9], [2, 3, 5, 7, 8]])  # with gaps, and not the same in both elements

POSITIONS_FAMILY = (
    Mechanism(
        name="RotaryEmbedding",
        family="positions",
        file="positions/rotary.py",
        paper=Paper("Su et al.", 2021, "https://arxiv.org/abs/2104.09864"),
        equation=r"q_m \to R_m q_m, \; k_n \to R_n k_n, \quad q_m^\top R_{n - m} k_n",
        module=Part(
            "MultiHeadSelfAttention",
            {"embed_dim": EMBED, "num_heads": HEADS, "position": Part("RotaryEmbedding", {"head_dim": 4})},
        ),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        arguments={"positions": POSITIONS},
        oracle=lambda *args, positions, **kwargs: heads.grouped_query_attention(
            *args,
            **kwargs,
            num_heads=HEADS,
            num_kv_heads=HEADS,
            turn=partial(positions_oracle.rotary, positions=positions, rotary_dim=4),
        ),
        peers=("transformers LlamaAttention",),
    ),
)
