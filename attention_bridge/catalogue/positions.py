"""Entries of positional encodings: inside a dot-product class, in a class of their own, or added to the sequence."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from attention_bridge.catalogue.mechanism import Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.rotary import POSITIONS, ROTARY, held
from attention_bridge.catalogue.shared import (
    DEVLIN,
    EMBED,
    HEADS,
    HEADS_SELF,
    KEEP_SELF,
    SEQUENCE,
    VASWANI,
)
from attention_bridge.oracles import positions as oracles
from attention_bridge.oracles import positions_relative as relative


def added(
    name: str, paper: Paper, equation: str, module: Part, oracle: Callable[..., Any], peer: str
) -> Mechanism:
    """Make an entry for a positional encoding that is added to the sequence."""
    return Mechanism(
        growth="n",
        name=name,
        family="positions",
        file="positions/absolute.py",
        paper=paper,
        equation=equation,
        module=module,
        inputs=SEQUENCE,
        arguments={"positions": POSITIONS},
        weights=False,
        oracle=oracle,
        peers=(peer,),
    )


def attending(
    name: str,
    file: str,
    paper: Paper,
    equation: str,
    options: Mapping[str, Any],
    oracle: Callable[..., Any],
    peers: tuple[str, ...] = (),
    no_peer: str = "",
    decoding: str = "",
) -> Mechanism:
    """Make an entry for an attention class with its own use of positions."""
    return Mechanism(
        name=name,
        family="positions",
        file=file,
        paper=paper,
        equation=equation,
        module=Part(name.partition("-")[0], {"embed_dim": EMBED, "num_heads": HEADS, **options}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        arguments={"positions": POSITIONS},
        oracle=partial(oracle, num_heads=HEADS),
        decoding=decoding,
        decoding_options={"is_causal": True} if decoding else {},
        peers=peers,
        no_peer=no_peer,
    )


SHAW = Paper("Shaw, Uszkoreit & Vaswani", 2018, "https://arxiv.org/abs/1803.02155")
HE = Paper("He et al.", 2021, "https://arxiv.org/abs/2006.03654")
DISENTANGLED = (
    r"\left[q_i^\top k_j + q_i^\top K^r_{\delta(i,j)} + k_j^\top Q^r_{\delta(i,j)}\right] / \sqrt{3 d}"
)
BUCKETS: dict[str, Any] = {"num_buckets": 8, "max_distance": 9}  # 16 rows of relative positions

POSITIONS_FAMILY = (
    *ROTARY,
    added(
        "SinusoidalEmbedding",
        VASWANI,
        r"x_p + e_p, \quad e_{p,2i} = \sin(p / 10000^{2i/d}), \; e_{p,2i+1} = \cos(p / 10000^{2i/d})",
        Part("SinusoidalEmbedding", {"embed_dim": EMBED}),
        oracles.sinusoidal,
        "transformers DistilBERT create_sinusoidal_embeddings",
    ),
    added(
        "LearnedEmbedding",
        DEVLIN,
        r"x_p + E_p",
        Part("LearnedEmbedding", {"max_len": 11, "embed_dim": EMBED}),
        oracles.learned,
        "transformers BertEmbeddings",
    ),
    held(
        "ALiBi",
        "positions/alibi.py",
        Paper("Press, Smith & Lewis", 2021, "https://arxiv.org/abs/2108.12409"),
        r"q_i^\top k_j / \sqrt{d} - m_h\,|i - j|",
        Part("ALiBi", {"num_heads": HEADS}),
        {"bias": oracles.alibi_bias},
        holder="CausalSelfAttention",
        peers=("transformers BloomAttention", "transformers MptAttention"),
    ),
    held(
        "T5Bias",
        "positions/t5.py",
        Paper("Raffel et al.", 2020, "https://arxiv.org/abs/1910.10683"),
        r"q_i^\top k_j + b_{h,\mathrm{bucket}(j - i)}",
        Part("T5Bias", {"num_heads": HEADS, "num_buckets": 8, "max_distance": 6}),
        {"bias": partial(relative.t5_bias, num_buckets=8, max_distance=6), "scale": 1.0},
        options={"scale": 1.0},
        peers=("transformers T5Attention",),
    ),
    held(
        "ShawEmbedding",
        "positions/shaw.py",
        SHAW,
        r"q_i^\top (k_j + a^K_{c(j - i)}) / \sqrt{d}",
        Part("ShawEmbedding", {"head_dim": 4, "max_distance": 2}),
        {"bias": partial(relative.shaw_bias, max_distance=2)},
        peers=("transformers Wav2Vec2BertSelfAttention, relative_key",),
    ),
    attending(
        "ShawSelfAttention",
        "positions/shaw.py",
        SHAW,
        r"\sum_j \mathrm{softmax}_j\left(q_i^\top (k_j + a^K_{c(j-i)}) / \sqrt{d}\right) (v_j + a^V_{c(j-i)})",
        {"max_distance": 2},
        partial(relative.shaw_self_attention, max_distance=2),
        decoding="cache",
        no_peer="available implementations omit a^V, like `ShawEmbedding`, which has a peer",
    ),
    held(
        "TransformerXLEmbedding",
        "positions/transformer_xl.py",
        Paper("Dai et al.", 2019, "https://arxiv.org/abs/1901.02860"),
        r"\left[(q_i + u)^\top k_j + (q_i + v)^\top W_R\, r_{i - j}\right] / \sqrt{d}",
        Part("TransformerXLEmbedding", {"embed_dim": 8, "num_heads": HEADS, "head_dim": 4}),
        {"shift": relative.transformer_xl_shift, "bias": relative.transformer_xl_bias},
        peers=("transformers XLNetRelativeAttention",),
    ),
    attending(
        "DisentangledSelfAttention",
        "positions/deberta.py",
        HE,
        DISENTANGLED,
        # Softmax almost cancels a bias of the keys, so that its gradient would be mostly rounding error.
        {**BUCKETS, "bias": False},
        partial(relative.disentangled_self_attention, **BUCKETS),
        peers=("transformers DebertaV2 DisentangledSelfAttention",),
    ),
    attending(
        "DisentangledSelfAttention-own-projections",
        "positions/deberta.py",
        HE,
        DISENTANGLED,
        {**BUCKETS, "share_projections": False},
        partial(relative.disentangled_self_attention, **BUCKETS),
        peers=("transformers DebertaV2 DisentangledSelfAttention, share_att_key=False",),
    ),
)
