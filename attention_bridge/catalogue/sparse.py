"""Entries of sparse attention that chooses keys by content."""

from functools import partial
from typing import Any

import numpy as np

from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import EMBED, HEADS, HEADS_SELF, KEEP_SELF, PADDING, SEQUENCE
from attention_bridge.oracles import native_sparse
from attention_bridge.oracles import sparse as oracles
from attention_bridge.oracles.positions import rotary

WIDE = ("float32", "float64")  # in bfloat16 many scores are equal, and ties decide which key is chosen
POSITIONS = np.array(
    [[0, 1, 3, 4, 5, 7, 9], [2, 3, 5, 6, 7, 8, 11]]
)  # with gaps, different in the two batch elements
LATENT: dict[str, Any] = {"num_heads": HEADS, "kv_lora_rank": 8, "nope_head_dim": 3, "rope_head_dim": 4}
DEEPSEEK_V32 = Paper("DeepSeek-AI", 2025, "https://arxiv.org/abs/2512.02556")
INDEXER: dict[str, Any] = {
    "num_heads": 4,
    "head_dim": 6,
    "query_dim": 9,
    "position": Part("RotaryEmbedding", {"head_dim": 6, "rotary_dim": 4}),
}
NATIVE: dict[str, Any] = {
    "num_heads": 4,
    "num_kv_heads": 2,
    "compressed_size": 4,
    "stride": 2,
    "selected_size": 2,
    "num_selected": 4,
    "window": 3,
}

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
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("x-transformers Attention with sparse_topk",),
    ),
    Mechanism(
        name="LightningIndexer",
        family="sparse",
        file="sparse/lightning_indexer.py",
        paper=DEEPSEEK_V32,
        equation=r"I_{ts} = \sum_h w_{th}\, \mathrm{ReLU}({q^I_{th}}^\top k^I_s / \sqrt{d}) / \sqrt{H}",
        module=Part("LightningIndexer", {"embed_dim": EMBED, **INDEXER}),
        inputs={**SEQUENCE, "asked": ("batch", "query", "query_dim")},
        arguments={"positions": POSITIONS},
        weights=False,
        sizes={**SIZES, "query": 7, "query_dim": 9},
        oracle=lambda parameters, x, asked, positions: oracles.index_scores(
            parameters, x, asked, num_heads=4, turn=partial(rotary, positions=positions, rotary_dim=4)
        ),
        no_peer="Other implementations return the chosen keys and not the scores: see DeepSeekSparseAttention.",
    ),
    Mechanism(
        name="DeepSeekSparseAttention",
        family="sparse",
        file="sparse/deepseek_sparse.py",
        paper=DEEPSEEK_V32,
        equation=r"I_{ts} = \sum_h w_{th}\, \mathrm{ReLU}({q^I_{th}}^\top k^I_s), \quad "
        r"\mathrm{Attention}(q_t, \{(k_s, v_s) : s \in \mathrm{top}\text{-}k\; I_t\})",
        module=Part(
            "DeepSeekSparseAttention",
            {
                "attention": Part(
                    "MultiHeadLatentAttention",
                    {
                        **LATENT,
                        "embed_dim": EMBED,
                        "value_head_dim": 2,
                        "q_lora_rank": 9,
                        "position": Part("RotaryEmbedding", {"head_dim": 4, "interleaved": True}),
                    },
                ),
                "indexer": Part("LightningIndexer", {"embed_dim": EMBED, **INDEXER}),
                "top_k": 3,
            },
        ),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        arguments={"positions": POSITIONS},
        sizes={**SIZES, "query": 7},
        oracle=partial(
            oracles.deepseek_sparse_attention, **LATENT, index_heads=4, top_k=3, index_rotary_dim=4
        ),
        causal=True,
        dtypes=WIDE,
        decoding="cache",
        peers=(
            "transformers DeepseekV32Attention",
            "flash-linear-attention naive_dsa, on grouped heads",
        ),
    ),
    Mechanism(
        name="NativeSparseAttention",
        family="sparse",
        file="sparse/native_sparse.py",
        paper=Paper("Yuan et al.", 2025, "https://arxiv.org/abs/2502.11089"),
        equation=r"\sum_{c \in \{cmp, slc, win\}} \sigma(W_g^c x_t)\, "
        r"\mathrm{Attention}(q_t, \tilde K_t^c, \tilde V_t^c)",
        module=Part("NativeSparseAttention", {"embed_dim": 8, **NATIVE, "hidden_dim": 3}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        sizes={**SIZES, "heads": 4, "query": 10, "embed": 8},
        oracle=partial(native_sparse.native_sparse_attention, **NATIVE),
        causal=True,
        dtypes=WIDE,
        decoding="cache",
        peers=("flash-linear-attention naive_nsa_compression, naive_nsa_topk and naive_nsa_selection",),
    ),
    Mechanism(
        name="MixtureOfBlockAttention",
        family="sparse",
        file="sparse/mixture_of_blocks.py",
        paper=Paper("Lu et al.", 2025, "https://arxiv.org/abs/2502.13189"),
        equation=r"\mathrm{softmax}\left(q K[I]^\top / \sqrt{d}\right) V[I], \quad "
        r"I = \mathrm{top}\text{-}k_i\; q^\top\, \mathrm{mean}\, K[I_i]",
        module=Part(
            "MixtureOfBlockAttention",
            {"embed_dim": EMBED, "num_heads": HEADS, "block_size": 2, "num_blocks": 2},
        ),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        sizes={**SIZES, "query": 7},
        oracle=partial(oracles.mixture_of_block_attention, num_heads=HEADS, block_size=2, num_blocks=2),
        causal=True,
        dtypes=WIDE,
        decoding="cache",
        no_peer="The authors' code and flash-linear-attention call flash-attn, which runs only on a GPU.",
    ),
    Mechanism(
        name="LSHAttention",
        family="sparse",
        file="sparse/lsh.py",
        paper=Paper("Kitaev, Kaiser & Levskaya", 2020, "https://arxiv.org/abs/2001.04451"),
        growth="n log n",
        equation=r"\sum_{j \in P_i} \exp(q_i^\top k_j - z_i)\, v_j, \quad "
        r"P_i \text{ by } h(x) = \arg\max\,[x R;\, -x R]",
        module=Part(
            "LSHAttention",
            {"embed_dim": EMBED, "num_heads": HEADS, "num_buckets": 4, "chunk_length": 2, "num_rounds": 2},
        ),
        inputs=SEQUENCE,
        masks=PADDING,
        keep=KEEP_SELF,
        sizes={**SIZES, "query": 10},
        oracle=partial(oracles.lsh_attention, num_heads=HEADS, chunk_length=2),
        dtypes=WIDE,
        no_decoding="Its hash tables are sorted over the whole sequence, which a later token would change.",
        peers=("transformers LSHSelfAttention", "transformers LSHSelfAttention, causal"),
    ),
)
