"""Entries of rotary embeddings, each inside a dot-product class."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import EMBED, HEADS, HEADS_SELF, KEEP_SELF, SEQUENCE
from attention_bridge.oracles import positions as oracles

SU = Paper("Su et al.", 2021, "https://arxiv.org/abs/2104.09864")
CHEN = Paper("Chen et al.", 2023, "https://arxiv.org/abs/2306.15595")
PENG = Paper("Peng et al.", 2023, "https://arxiv.org/abs/2309.00071")
META = Paper("Meta", 2024, "https://arxiv.org/abs/2407.21783")
DING = Paper("Ding et al.", 2024, "https://arxiv.org/abs/2402.13753")
GOOGLE = Paper("Google", 2026, "https://huggingface.co/docs/transformers/model_doc/gemma4")

# With gaps, different in the two batch elements.
POSITIONS = np.array([[0, 1, 3, 4, 9], [2, 3, 5, 7, 8]])
PATCHES = np.array(
    [
        [[0, 0, 1], [1, 9, 0], [2, 1, 8], [3, 3, 3], [5, 4, 9]],
        [[1, 1, 9], [2, 5, 0], [4, 0, 1], [7, 6, 3], [9, 8, 8]],
    ]
)
NARROW = {**SIZES, "embed": 4}  # three query heads and one key/value head, of 6 features each

TURNED = r"q_m \to R_m q_m, \; k_n \to R_n k_n, \quad "
FAST, SLOW = 4.0, 0.5  # turns within 64 positions; of three pairs, one is faster than both and one is slower


def held(
    name: str,
    file: str,
    paper: Paper,
    equation: str,
    position: Part,
    scheme: Mapping[str, Any],
    *,
    peers: tuple[str, ...],
    holder: str = "MultiHeadSelfAttention",
    options: Mapping[str, Any] | None = None,
    positions: np.ndarray = POSITIONS,
    no_decoding: str = "",
) -> Mechanism:
    """Make an entry for a positional encoding inside the class `holder`; `scheme` has the oracle's arguments for it."""
    grouped = holder == "GroupedQueryAttention"
    decoding = "cache" if holder != "MultiHeadSelfAttention" and not no_decoding else ""
    size = {"embed_dim": EMBED, "num_heads": HEADS}
    if grouped:
        size = {"embed_dim": NARROW["embed"], "num_heads": HEADS, "num_kv_heads": 1, "head_dim": 6}
    return Mechanism(
        name=name,
        family="positions",
        file=file,
        paper=paper,
        equation=equation,
        module=Part(holder, {**size, **(options or {}), "position": position}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        arguments={"positions": positions},
        causal=holder == "CausalSelfAttention",
        decoding=decoding,
        decoding_options={"is_causal": True} if grouped and decoding else {},
        no_decoding=no_decoding,
        sizes=NARROW if grouped else SIZES,
        oracle=partial(
            oracles.attention_with_positions,
            num_heads=HEADS,
            num_kv_heads=1 if grouped else HEADS,
            is_causal=holder == "CausalSelfAttention",
            **scheme,
        ),
        peers=peers,
    )


def scaled(
    kind: str,
    paper: Paper,
    equation: str,
    frequencies: Part,
    thetas: Callable[[int], list[float]],
    *,
    amplitude: Part | None = None,
    factor: float = 1.0,
) -> Mechanism:
    """Make an entry for scaled rotary frequencies, from a function of the mirrors and one of the oracle."""
    options = {"frequencies": frequencies, **({} if amplitude is None else {"amplitude": amplitude})}
    return held(
        f"RotaryEmbedding-{kind}",
        "positions/rotary_scaling.py",
        paper,
        equation,
        Part("RotaryEmbedding", {"head_dim": 6, **options}),
        {"turn": partial(oracles.rotary, rotary_dim=6, frequencies=thetas(6), amplitude=factor)},
        holder="GroupedQueryAttention",
        peers=(f"transformers LlamaAttention, {kind}",),
    )


def by_base(dim: int, base: float = 100.0) -> list[float]:
    """Rotary frequencies θ_i = base^(-2i/d)."""
    return [base ** (-2 * i / dim) for i in range(dim // 2)]


ROTARY = (
    held(
        "RotaryEmbedding",
        "positions/rotary.py",
        SU,
        TURNED + r"q_m^\top R_{n - m} k_n",
        Part("RotaryEmbedding", {"head_dim": 4}),
        {"turn": partial(oracles.rotary, rotary_dim=4)},
        peers=("transformers LlamaAttention",),
    ),
    held(
        "RotaryEmbedding-interleaved",
        "positions/rotary.py",
        SU,
        TURNED + r"\text{pairs } (2i, 2i + 1)",
        Part("RotaryEmbedding", {"head_dim": 4, "interleaved": True}),
        {"turn": partial(oracles.rotary, rotary_dim=4, interleaved=True)},
        peers=("transformers GPTJAttention",),
    ),
    held(
        "RotaryEmbedding-partial",
        "positions/rotary.py",
        SU,
        TURNED + r"\text{of the first features}",
        Part("RotaryEmbedding", {"head_dim": 6, "rotary_dim": 4}),
        {"turn": partial(oracles.rotary, rotary_dim=4)},
        holder="GroupedQueryAttention",
        peers=("transformers PhiAttention",),
    ),
    scaled(
        "linear",
        CHEN,
        TURNED + r"\theta_i / s",
        Part("linear_frequencies", {"rotary_dim": 6, "factor": 4.0, "base": 100.0}),
        lambda dim: [theta / 4 for theta in by_base(dim)],
    ),
    scaled(
        "dynamic-ntk",
        PENG,
        TURNED + r"\theta_i = \left[b\,(s L' / L - s + 1)^{d/(d-2)}\right]^{-2i/d}",
        Part(
            "dynamic_ntk_frequencies",
            {"rotary_dim": 6, "length": 160, "factor": 4.0, "original_length": 64, "base": 100.0},
        ),
        lambda dim: by_base(dim, 100 * (4 * 160 / 64 - 3) ** (dim / (dim - 2))),
    ),
    scaled(
        "yarn",
        PENG,
        TURNED + r"(1 - \gamma_i)\,\theta_i / s + \gamma_i \theta_i, \; a = 0.1 \ln s + 1",
        Part(
            "yarn_frequencies",
            {
                "rotary_dim": 6,
                "factor": 4.0,
                "original_length": 64,
                "base": 100.0,
                "beta_fast": FAST,
                "beta_slow": SLOW,
            },
        ),
        lambda dim: oracles.yarn(dim, 4, 64, 100, FAST, SLOW),
        amplitude=Part("yarn_amplitude", {"factor": 4.0}),
        factor=0.1 * math.log(4) + 1,
    ),
    scaled(
        "llama3",
        META,
        TURNED + r"(1 - \gamma_i)\,\theta_i / s + \gamma_i \theta_i, \; \gamma_i \text{ by wavelength}",
        Part(
            "llama3_frequencies",
            {
                "rotary_dim": 6,
                "factor": 4.0,
                "original_length": 64,
                "base": 100.0,
                "low_freq_factor": SLOW,
                "high_freq_factor": FAST,
            },
        ),
        lambda dim: oracles.llama3(dim, 4, 64, 100, SLOW, FAST),
    ),
    scaled(
        "longrope",
        DING,
        TURNED + r"\theta_i / \lambda_i, \; a = \sqrt{1 + \ln s / \ln L}",
        Part(
            "longrope_frequencies",
            {
                "rotary_dim": 6,
                "length": 160,
                "short_factors": (1.0, 1.5, 2.0),
                "long_factors": (1.25, 2.5, 4.0),
                "original_length": 64,
                "base": 100.0,
            },
        ),
        lambda dim: [theta / by for theta, by in zip(by_base(dim), (1.25, 2.5, 4.0), strict=True)],
        amplitude=Part("longrope_amplitude", {"factor": 4.0, "original_length": 64}),
        factor=math.sqrt(1 + math.log(4) / math.log(64)),
    ),
    scaled(
        "proportional",
        GOOGLE,
        TURNED + r"\theta_i \text{ for } i < p d / 2, \text{ else } 0",
        Part("proportional_frequencies", {"head_dim": 6, "proportion": 0.7, "base": 100.0}),
        lambda dim: [*by_base(dim)[:2], 0.0],
    ),
    held(
        "MultiAxisRotaryEmbedding",
        "positions/rotary_axes.py",
        Paper("Wang et al.", 2024, "https://arxiv.org/abs/2409.12191"),
        r"q_p \to R_p\, q_p, \quad \text{pair } i \text{ by } p_{a(i)}\, b^{-2i/d}",
        Part("MultiAxisRotaryEmbedding", {"head_dim": 6, "sections": (1, 1, 1), "base": 100.0}),
        {"turn": partial(oracles.multi_axis_rotary, sections=(1, 1, 1), base=100.0)},
        holder="GroupedQueryAttention",
        positions=PATCHES,
        no_decoding="A cache counts positions along one axis, and these positions have three.",
        peers=("transformers Qwen2VLAttention",),
    ),
    held(
        "AxialRotaryEmbedding",
        "positions/rotary_axes.py",
        Paper("Heo et al.", 2024, "https://arxiv.org/abs/2403.13298"),
        r"q_p \to R_p\, q_p, \quad \text{each axis with all frequencies of its part of the head}",
        Part("AxialRotaryEmbedding", {"head_dim": 4}),
        {"turn": partial(oracles.axial_rotary, num_axes=2)},
        positions=PATCHES[..., 1:],
        peers=("transformers Qwen2VL VisionAttention",),
    ),
)
