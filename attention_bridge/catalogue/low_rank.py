"""Entries of low-rank attention, with fewer keys than positions."""

from functools import partial
from typing import Any

from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import HEADS, PADDING, SEQUENCE
from attention_bridge.oracles import low_rank as oracles

LANDMARKS: dict[str, Any] = {"num_heads": HEADS, "num_landmarks": 4}

LOW_RANK_FAMILY: tuple[Mechanism, ...] = (
    Mechanism(
        name="LinformerAttention",
        family="low_rank",
        file="low_rank/linformer.py",
        paper=Paper("Wang et al.", 2020, "https://arxiv.org/abs/2006.04768"),
        growth="n",
        equation=r"\mathrm{softmax}\left(Q (E^\top K)^\top / \sqrt{d}\right) F^\top V",
        module=Part(
            "LinformerAttention", {"embed_dim": 18, "num_heads": HEADS, "length": 7, "projected_length": 4}
        ),
        inputs=SEQUENCE,
        masks=PADDING,
        keep=("batch", "heads", "query", "projected"),
        sizes={**SIZES, "projected": 4, "embed": 18},
        oracle=partial(oracles.linformer_attention, num_heads=HEADS),
        peers=("linformer LinformerSelfAttention",),
    ),
    Mechanism(
        name="NystromAttention",
        family="low_rank",
        file="low_rank/nystrom.py",
        paper=Paper("Xiong et al.", 2021, "https://arxiv.org/abs/2102.03902"),
        growth="n",
        equation=r"\mathrm{softmax}(Q \tilde K^\top)\, \mathrm{softmax}(\tilde Q \tilde K^\top)^{+}\, "
        r"\mathrm{softmax}(\tilde Q K^\top)\, V + \mathrm{conv}(V)",
        module=Part("NystromAttention", {"embed_dim": 15, **LANDMARKS, "kernel_size": 3}),
        inputs=SEQUENCE,
        masks=PADDING,
        sizes={**SIZES, "query": 8, "embed": 15},
        oracle=partial(oracles.nystrom_attention, **LANDMARKS),
        dtypes=("float32", "float64"),  # the inverse of a rounded matrix is far off in bfloat16
        peers=("transformers NystromformerSelfAttention", "nystrom-attention NystromAttention"),
    ),
)
