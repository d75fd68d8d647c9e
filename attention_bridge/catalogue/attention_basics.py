"""Entries of additive, multiplicative and scaled dot-product attention."""

from attention_bridge import oracles
from attention_bridge.catalogue.mechanism import Mechanism
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import (
    BAHDANAU,
    HIDDEN,
    KEEP_ONE_HEAD_CROSS,
    KEY_DIM,
    LUONG,
    ONE_HEAD_CROSS,
    QUERY_DIM,
    QUERY_KEY_VALUE,
    SAME_DIM,
    VASWANI,
)

BASICS = (
    Mechanism(
        name="BasicAttention",
        family="basics",
        file="attention_basics.py",
        paper=BAHDANAU,
        equation=r"\mathrm{softmax}_j\left(w^\top \tanh(W q_i + U k_j)\right) v_j",
        module=Part(
            "BasicAttention", {"query_dim": QUERY_DIM, "key_dim": KEY_DIM, "hidden_dim": HIDDEN, "bias": True}
        ),
        inputs=QUERY_KEY_VALUE,
        masks=ONE_HEAD_CROSS,
        keep=KEEP_ONE_HEAD_CROSS,
        oracle=oracles.basic_attention,
        native="basic_attention",
        peers=("keras AdditiveAttention",),
    ),
    Mechanism(
        name="LuongAttention-dot",
        family="basics",
        file="attention_basics.py",
        paper=LUONG,
        equation=r"\mathrm{softmax}_j\left(q_i^\top k_j\right) v_j",
        module=Part("LuongAttention", {"score": Part("DotScore")}),
        inputs=SAME_DIM,
        masks=ONE_HEAD_CROSS,
        keep=KEEP_ONE_HEAD_CROSS,
        oracle=oracles.luong_dot_attention,
        native="luong_dot_attention",
        peers=("keras Attention",),
    ),
    Mechanism(
        name="LuongAttention-general",
        family="basics",
        file="attention_basics.py",
        paper=LUONG,
        equation=r"\mathrm{softmax}_j\left(q_i^\top W k_j\right) v_j",
        module=Part(
            "LuongAttention", {"score": Part("GeneralScore", {"query_dim": QUERY_DIM, "key_dim": KEY_DIM})}
        ),
        inputs=QUERY_KEY_VALUE,
        masks=ONE_HEAD_CROSS,
        keep=KEEP_ONE_HEAD_CROSS,
        oracle=oracles.luong_general_attention,
        native="luong_general_attention",
        peers=("keras Attention",),
    ),
    Mechanism(
        name="LuongAttention-concat",
        family="basics",
        file="attention_basics.py",
        paper=LUONG,
        equation=r"\mathrm{softmax}_j\left(w^\top \tanh(W [q_i; k_j])\right) v_j",
        module=Part(
            "LuongAttention",
            {
                "score": Part(
                    "ConcatScore", {"query_dim": QUERY_DIM, "key_dim": KEY_DIM, "hidden_dim": HIDDEN}
                )
            },
        ),
        inputs=QUERY_KEY_VALUE,
        masks=ONE_HEAD_CROSS,
        keep=KEEP_ONE_HEAD_CROSS,
        oracle=oracles.luong_concat_attention,
        native="luong_concat_attention",
        peers=("keras AdditiveAttention", "keras Attention with score_mode=concat"),
    ),
    Mechanism(
        name="ScaledDotProductAttention",
        family="basics",
        file="attention_basics.py",
        paper=VASWANI,
        equation=r"\mathrm{softmax}\left(Q K^\top / \sqrt{d}\right) V",
        module=Part("ScaledDotProductAttention"),
        inputs=SAME_DIM,
        masks=ONE_HEAD_CROSS,
        keep=KEEP_ONE_HEAD_CROSS,
        oracle=oracles.scaled_dot_product_attention,
        native="scaled_dot_product_attention",
        peers=("torch scaled_dot_product_attention", "jax.nn.dot_product_attention"),
    ),
)
