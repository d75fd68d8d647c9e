"""Keys chosen by what they hold."""

from functools import partial

from attention_bridge.catalogue.mechanism import Mechanism, Paper, Part
from attention_bridge.catalogue.shared import EMBED, HEADS, HEADS_SELF, KEEP_SELF, SEQUENCE
from attention_bridge.oracles import sparse as oracles

WIDE = ("float32", "float64")  # in bfloat16 many scores are equal, and it is chance which key is chosen

SPARSE_FAMILY: tuple[Mechanism, ...] = (
    Mechanism(
        name="TopKAttention",
        family="sparse",
        file="sparse/top_k.py",
        paper=Paper("Zhao et al.", 2019, "https://arxiv.org/abs/1912.11637"),
        equation=r"\mathrm{softmax}_{j \in T_i}\left(q_i^\top k_j / \sqrt{d}\right), \quad "
        r"T_i = \mathrm{top}\text{-}k_j\; q_i^\top k_j",
        module=Part("TopKAttention", {"embed_dim": EMBED, "num_heads": HEADS, "top_k": 2}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        oracle=partial(oracles.top_k_attention, num_heads=HEADS, top_k=2),
        dtypes=WIDE,
        peers=("x-transformers Attention with sparse_topk",),
    ),
)
