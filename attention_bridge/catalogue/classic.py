"""Entries of classic attention: location-aware, pointer and hierarchical."""

import numpy as np

from attention_bridge.catalogue.mechanism import Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import (
    EMBED,
    HIDDEN,
    KEEP_ONE_HEAD_CROSS,
    KEY_DIM,
    ONE_HEAD_CROSS,
    PADDING,
    QUERY_DIM,
    QUERY_KEY_VALUE,
    SEQUENCE,
)
from attention_bridge.oracles import classic as oracles

COMPARED = {"query_dim": QUERY_DIM, "key_dim": KEY_DIM, "hidden_dim": HIDDEN}
# Attention weights of the step before the first one: two batch elements, seven keys.
PREVIOUS = np.array(
    [
        [0.125, 0.25, 0.0625, 0.1875, 0.25, 0.03125, 0.09375],
        [0.0, 0.0625, 0.4375, 0.25, 0.0625, 0.125, 0.0625],
    ]
)

CLASSIC_FAMILY = (
    Mechanism(
        name="LocationAwareAttention",
        family="classic",
        file="classic/location_aware.py",
        paper=Paper("Chorowski et al.", 2015, "https://arxiv.org/abs/1506.07503"),
        equation=r"\mathrm{softmax}_j\left(w^\top \tanh(W s_i + V h_j + U (F * \alpha_{i-1})_j + b)\right) v_j",
        module=Part("LocationAwareAttention", {**COMPARED, "num_filters": 4, "kernel_size": 3}),
        inputs=QUERY_KEY_VALUE,
        masks=ONE_HEAD_CROSS,
        keep=KEEP_ONE_HEAD_CROSS,
        arguments={"previous": PREVIOUS},
        oracle=oracles.location_aware_attention,
        peers=("espnet AttLoc",),
    ),
    Mechanism(
        name="PointerAttention",
        family="classic",
        file="classic/pointer.py",
        paper=Paper("Vinyals, Fortunato & Jaitly", 2015, "https://arxiv.org/abs/1506.03134"),
        equation=r"p(j \mid i) = \mathrm{softmax}_j\left(w^\top \tanh(W_1 e_j + W_2 d_i)\right)",
        module=Part("PointerAttention", {**COMPARED, "bias": True}),
        inputs={"query": QUERY_KEY_VALUE["query"], "key": QUERY_KEY_VALUE["key"]},
        masks=ONE_HEAD_CROSS,
        oracle=oracles.pointer_attention,
        peers=("keras AdditiveAttention",),
    ),
    Mechanism(
        name="HierarchicalAttentionPooling",
        family="classic",
        file="classic/hierarchical.py",
        paper=Paper("Yang et al.", 2016, "https://aclanthology.org/N16-1174/"),
        growth="n",
        equation=r"\mathrm{softmax}_t\left(u_w^\top \tanh(W h_t + b)\right) h_t",
        module=Part("HierarchicalAttentionPooling", {"embed_dim": EMBED, "hidden_dim": HIDDEN}),
        inputs=SEQUENCE,
        masks=PADDING,
        oracle=oracles.hierarchical_attention_pooling,
        peers=("keras AdditiveAttention",),
    ),
)
