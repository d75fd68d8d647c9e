"""Entries of delta-rule recurrences, state-space duality and gated short convolutions."""

from functools import partial
from typing import Any

from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import PADDING, SEQUENCE
from attention_bridge.oracles import delta as oracles

CHUNKS: dict[str, Any] = {"chunk_size": 2}  # 5 tokens: two full chunks and a partial one
SHORT = {**SIZES, "embed": 7}
# A large epsilon of the output norm: the first token's output may be almost zero, and with a usual epsilon the norm
# would amplify the rounding errors of its gradient.
EPS: dict[str, Any] = {"eps": 0.01}
HEAD: dict[str, Any] = {"num_heads": 3, "head_dim": 4, "value_dim": 6, **EPS}
GROUPED: dict[str, Any] = {"num_heads": 3, "num_value_heads": 6, "head_dim": 4, "value_dim": 3, **EPS}
GROUPS: dict[str, Any] = {"num_heads": 6, "head_dim": 3, "state_dim": 4, "num_groups": 3, **EPS}

DELTA_FAMILY = (
    Mechanism(
        name="DeltaNet",
        family="linear",
        file="linear/delta.py",
        paper=Paper("Yang et al.", 2024, "https://arxiv.org/abs/2406.06484"),
        growth="n",
        equation=r"S_t = S_{t-1} + \beta_t k_t (v_t - S_{t-1}^\top k_t)^\top, \quad o_t = S_t^\top q_t",
        module=Part("DeltaNet", {"embed_dim": 7, **HEAD, **CHUNKS}),
        inputs=SEQUENCE,
        masks=PADDING,
        causal=True,
        sizes=SHORT,
        oracle=partial(oracles.delta_net, **HEAD),
        decoding="state",
        peers=("flash-linear-attention DeltaNet",),
    ),
    Mechanism(
        name="GatedDeltaNet",
        family="linear",
        file="linear/gated_delta.py",
        paper=Paper("Yang, Kautz & Hatamizadeh", 2024, "https://arxiv.org/abs/2412.06464"),
        growth="n",
        equation=r"S_t = \alpha_t (I - \beta_t k_t k_t^\top) S_{t-1} + \beta_t k_t v_t^\top",
        module=Part("GatedDeltaNet", {"embed_dim": 7, **GROUPED, **CHUNKS}),
        inputs=SEQUENCE,
        masks=PADDING,
        causal=True,
        sizes=SHORT,
        oracle=partial(oracles.gated_delta_net, **GROUPED),
        decoding="state",
        peers=("transformers Qwen3NextGatedDeltaNet", "flash-linear-attention GatedDeltaNet"),
    ),
    Mechanism(
        name="KimiDeltaAttention",
        family="linear",
        file="linear/kimi_delta.py",
        paper=Paper("Kimi Team", 2025, "https://arxiv.org/abs/2510.26692"),
        growth="n",
        equation=(
            r"S_t = (I - \beta_t k_t k_t^\top)\, \mathrm{Diag}(\alpha_t)\, S_{t-1} + \beta_t k_t v_t^\top"
        ),
        module=Part("KimiDeltaAttention", {"embed_dim": 7, **HEAD, "rank": 5, **CHUNKS}),
        inputs=SEQUENCE,
        masks=PADDING,
        causal=True,
        sizes=SHORT,
        oracle=partial(oracles.kimi_delta_attention, **HEAD),
        decoding="state",
        peers=("transformers KimiLinearDeltaAttention", "flash-linear-attention KimiDeltaAttention"),
    ),
    Mechanism(
        name="Mamba2",
        family="linear",
        file="linear/state_space.py",
        paper=Paper("Dao & Gu", 2024, "https://arxiv.org/abs/2405.21060"),
        growth="n",
        equation=r"S_t = e^{-e^A \Delta_t} S_{t-1} + B_t (\Delta_t x_t)^\top, \quad y_t = S_t^\top C_t + D x_t",
        module=Part("Mamba2", {"embed_dim": 7, **GROUPS, **CHUNKS}),
        inputs=SEQUENCE,
        masks=PADDING,
        causal=True,
        sizes=SHORT,
        oracle=partial(oracles.mamba2, **GROUPS),
        decoding="state",
        peers=("transformers Mamba2Mixer",),
    ),
    Mechanism(
        name="GatedShortConvolution",
        family="linear",
        file="linear/gated_short_conv.py",
        paper=Paper("Liquid AI", 2025, "https://arxiv.org/abs/2511.23404"),
        growth="n",
        equation=r"y_t = W_{\mathrm{out}} \left(C_t \odot \sum_{i=0}^{w-1} c_i \odot (B \odot X)_{t-w+1+i}\right)",
        module=Part("GatedShortConvolution", {"embed_dim": 7, "bias": True}),
        inputs=SEQUENCE,
        masks=PADDING,
        causal=True,
        sizes=SHORT,
        oracle=oracles.gated_short_convolution,
        decoding="state",
        peers=("transformers Lfm2ShortConv",),
    ),
)
