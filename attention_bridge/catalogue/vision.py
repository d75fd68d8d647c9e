"""Entries of attention over images."""

from functools import partial

from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import EMBED, FFN, HEADS, HEADS_SELF, KEEP_SELF, SEQUENCE
from attention_bridge.oracles import vision as oracles

GRID = {"x": ("batch", "height", "width", "embed")}
SMALL = {**SIZES, "height": 5, "width": 4, "embed": 6}  # 3 heads of 2 features
# A grid that windows of 3 by 3 do not tile; after padding it has 2 by 3 windows.
WINDOWS = {**SIZES, "height": 4, "width": 7, "embed": 6, "windows": 6, "area": 9}
KEEP_WINDOWS = ("batch", "windows", "heads", "area", "area")
SWIN = Paper("Liu et al.", 2021, "https://arxiv.org/abs/2103.14030")
IN_WINDOWS = {"embed_dim": 6, "num_heads": HEADS, "window_size": 3}

VISION_FAMILY = (
    Mechanism(
        name="ViTBlock",
        family="vision",
        file="vision/vit.py",
        paper=Paper("Dosovitskiy et al.", 2020, "https://arxiv.org/abs/2010.11929"),
        equation=r"z' = z + \mathrm{MSA}(\mathrm{LN}(z)), \quad z'' = z' + \mathrm{MLP}(\mathrm{LN}(z'))",
        module=Part("ViTBlock", {"embed_dim": EMBED, "num_heads": HEADS, "ffn_dim": FFN}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        oracle=partial(oracles.vit_block, num_heads=HEADS),
        peers=("transformers ViTEmbeddings", "transformers ViTLayer"),
    ),
    Mechanism(
        name="WindowAttention",
        family="vision",
        file="vision/window.py",
        paper=SWIN,
        growth="n",
        equation=r"\mathrm{softmax}\left(Q K^\top / \sqrt{d} + B\right) V \text{ in each window}",
        module=Part("WindowAttention", IN_WINDOWS),
        inputs=GRID,
        keep=KEEP_WINDOWS,
        sizes=WINDOWS,
        oracle=partial(oracles.window_attention, num_heads=HEADS, window_size=3),
        peers=("transformers SwinLayer",),
    ),
    Mechanism(
        name="ShiftedWindowAttention",
        family="vision",
        file="vision/window.py",
        paper=SWIN,
        growth="n",
        equation=r"\mathrm{roll}^{-1} \circ \mathrm{WindowAttention} \circ \mathrm{roll}",
        module=Part("ShiftedWindowAttention", {**IN_WINDOWS, "shift": 1}),
        inputs=GRID,
        keep=KEEP_WINDOWS,
        sizes=WINDOWS,
        oracle=partial(oracles.window_attention, num_heads=HEADS, window_size=3, shift=1),
        peers=("transformers SwinLayer",),
    ),
    Mechanism(
        name="CosineWindowAttention",
        family="vision",
        file="vision/cosine_window.py",
        paper=Paper("Liu et al.", 2022, "https://arxiv.org/abs/2111.09883"),
        growth="n",
        equation=r"\mathrm{softmax}\left(\tau_h \cos(Q, K) + 16\, \sigma(\mathrm{MLP}(\delta))\right) V "
        r"\text{ in each window}",
        module=Part(
            "CosineWindowAttention", {**IN_WINDOWS, "shift": 1, "pretrained_window": 5, "position_dim": 11}
        ),
        inputs=GRID,
        keep=KEEP_WINDOWS,
        sizes=WINDOWS,
        oracle=partial(
            oracles.cosine_window_attention, num_heads=HEADS, window_size=3, shift=1, pretrained_window=5
        ),
        peers=("transformers Swinv2Layer",),
    ),
    Mechanism(
        name="SpatialReductionAttention",
        family="vision",
        file="vision/spatial_reduction.py",
        paper=Paper("Wang et al.", 2021, "https://arxiv.org/abs/2102.12122"),
        equation=r"\mathrm{softmax}\left(Q K^\top / \sqrt{d}\right) V, \quad K, V \text{ of } "
        r"\mathrm{LN}(\mathrm{Conv}_R(X))",
        module=Part("SpatialReductionAttention", {"embed_dim": 6, "num_heads": HEADS, "reduction": 2}),
        inputs=GRID,
        keep=("batch", "heads", "area", "patches"),
        sizes={**SMALL, "area": 20, "patches": 4},
        oracle=partial(oracles.spatial_reduction_attention, num_heads=HEADS),
        peers=("transformers SegformerAttention",),
    ),
    Mechanism(
        name="AxialAttention",
        family="vision",
        file="vision/axial.py",
        paper=Paper("Ho et al.", 2019, "https://arxiv.org/abs/1912.12180"),
        growth="n √n",
        equation=r"\mathrm{MHA}_{\text{height}}(x_{\cdot, j})_i + \mathrm{MHA}_{\text{width}}(x_{i, \cdot})_j",
        module=Part("AxialAttention", {"embed_dim": 6, "num_heads": HEADS}),
        inputs=GRID,
        sizes=SMALL,
        oracle=partial(oracles.axial_attention, num_heads=HEADS),
        peers=("axial_attention AxialAttention",),
    ),
    Mechanism(
        name="DecomposedPositionAttention",
        family="vision",
        file="vision/decomposed_position.py",
        paper=Paper("Li et al.", 2022, "https://arxiv.org/abs/2112.01526"),
        equation=r"q_i^\top k_j / \sqrt{d} + q_i^\top R^h_{y_i - y_j} + q_i^\top R^w_{x_i - x_j}",
        module=Part("DecomposedPositionAttention", {"embed_dim": 6, "num_heads": HEADS, "grid_size": (5, 4)}),
        inputs=GRID,
        keep=("batch", "heads", "area", "area"),
        sizes={**SMALL, "area": 20},
        oracle=partial(oracles.decomposed_position_attention, num_heads=HEADS),
        peers=("transformers VitDetAttention",),
    ),
)
