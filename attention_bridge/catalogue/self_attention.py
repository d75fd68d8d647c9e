"""Entries of self-attention."""

from functools import partial

from attention_bridge import oracles
from attention_bridge.catalogue.mechanism import Mechanism
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import (
    EMBED,
    HEADS,
    HEADS_SELF,
    KEEP_ONE_HEAD_SELF,
    KEEP_SELF,
    ONE_HEAD_SELF,
    RADFORD,
    SEQUENCE,
    VASWANI,
)

SELF = (
    Mechanism(
        name="SelfAttention",
        family="self",
        file="self_attention.py",
        paper=VASWANI,
        equation=r"\mathrm{softmax}\left(X W_Q (X W_K)^\top / \sqrt{d}\right) X W_V",
        module=Part("SelfAttention", {"embed_dim": EMBED}),
        inputs=SEQUENCE,
        masks=ONE_HEAD_SELF,
        keep=KEEP_ONE_HEAD_SELF,
        oracle=oracles.self_attention,
        native="self_attention",
        peers=("torch MultiheadAttention",),
    ),
    Mechanism(
        name="MultiHeadSelfAttention",
        family="self",
        file="self_attention.py",
        paper=VASWANI,
        equation=r"[\mathrm{head}_1; \dots; \mathrm{head}_h] W_O",
        module=Part("MultiHeadSelfAttention", {"embed_dim": EMBED, "num_heads": HEADS}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        oracle=partial(oracles.multi_head_self_attention, num_heads=HEADS),
        native="multi_head_self_attention",
        peers=("torch MultiheadAttention", "flax nnx.MultiHeadAttention"),
    ),
    Mechanism(
        name="CausalSelfAttention",
        family="self",
        file="self_attention.py",
        paper=RADFORD,
        equation=r"[\mathrm{head}_1; \dots; \mathrm{head}_h] W_O, \quad \alpha_{ij} = 0 \text{ for } j > i",
        module=Part("CausalSelfAttention", {"embed_dim": EMBED, "num_heads": HEADS}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        oracle=partial(oracles.causal_self_attention, num_heads=HEADS),
        causal=True,
        native="causal_self_attention",
        decoding="cache",
        peers=("torch MultiheadAttention", "transformers GPT2Attention"),
    ),
)
