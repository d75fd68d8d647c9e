"""Entries of attention patterns that depend on positions."""

from functools import partial

import numpy as np

from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import EMBED, HEADS, HEADS_SELF, KEEP_SELF, SEQUENCE
from attention_bridge.oracles import patterns as oracles

SEVEN_TOKENS = {**SIZES, "query": 7}
SEVEN_SMALL = {**SEVEN_TOKENS, "embed": 6}
GLOBAL_TOKENS = np.array([[True, False, False, False, False, False, False], [False] * 5 + [True, True]])
SIX_MEMORIES = {**SIZES, "columns": SIZES["query"] + 6}
SEVEN_BLOCKS = {**SIZES, "query": 14, "embed": 6}
RANDOM_BLOCKS = (
    np.array(  # 3 heads, 7 blocks; -1 is no block; the last head has two blocks that are visible anyway
        [
            [[-1, -1], [3, 5], [4, 5], [1, 5], [1, 2], [2, 3], [-1, -1]],
            [[-1, -1], [4, -1], [5, -1], [5, -1], [2, -1], [1, -1], [-1, -1]],
            [[-1, -1], [5, 4], [4, 5], [3, 0], [2, 1], [3, 1], [-1, -1]],
        ],
        dtype=np.int32,
    )
)

PATTERNS_FAMILY = (
    Mechanism(
        name="SlidingWindowAttention",
        family="patterns",
        file="patterns/sliding_window.py",
        paper=Paper("Child et al.", 2019, "https://arxiv.org/abs/1904.10509"),
        growth="n",
        equation=r"\sum_{i - W < j \le i} \alpha_{ij} v_j",
        module=Part("SlidingWindowAttention", {"embed_dim": EMBED, "num_heads": HEADS, "window": 3}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        causal=True,
        oracle=partial(oracles.sliding_window_attention, num_heads=HEADS, window=3),
        decoding="cache",
        peers=("transformers MistralAttention", "keras MultiHeadAttention", "x-transformers Attention"),
    ),
    Mechanism(
        name="ChunkedAttention",
        family="patterns",
        file="patterns/chunked.py",
        paper=Paper("Meta", 2025, "https://ai.meta.com/blog/llama-4-multimodal-intelligence/"),
        growth="n",
        equation=r"\sum_{j \le i, \lfloor j / C \rfloor = \lfloor i / C \rfloor} \alpha_{ij} v_j",
        module=Part("ChunkedAttention", {"embed_dim": EMBED, "num_heads": HEADS, "chunk_size": 3}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        causal=True,
        oracle=partial(oracles.chunked_attention, num_heads=HEADS, chunk_size=3),
        decoding="cache",
        peers=("transformers Llama4TextAttention",),
    ),
    Mechanism(
        name="LongformerAttention",
        family="patterns",
        file="patterns/longformer.py",
        paper=Paper("Beltagy et al.", 2020, "https://arxiv.org/abs/2004.05150"),
        growth="n",
        equation=r"\sum_{\lvert i - j \rvert \le w \,\lor\, j \in \mathcal{G}} \alpha_{ij} v_j, \;"
        r" i \in \mathcal{G}: \sum_j \alpha^g_{ij} v^g_j",
        module=Part("LongformerAttention", {"embed_dim": 6, "num_heads": HEADS, "one_sided_window": 1}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        arguments={"global_tokens": GLOBAL_TOKENS},
        sizes=SEVEN_SMALL,
        oracle=partial(oracles.longformer_attention, num_heads=HEADS, one_sided_window=1),
        peers=("transformers LongformerSelfAttention",),
    ),
    Mechanism(
        name="BigBirdAttention",
        family="patterns",
        file="patterns/big_bird.py",
        paper=Paper("Zaheer et al.", 2020, "https://arxiv.org/abs/2007.14062"),
        growth="n",
        equation=r"\sum_{B(j) \in \mathrm{window} \cup \mathrm{ends} \cup \mathrm{random}} \alpha_{ij} v_j",
        module=Part("BigBirdAttention", {"embed_dim": 6, "num_heads": HEADS, "block_size": 2}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        arguments={"random_blocks": RANDOM_BLOCKS},
        sizes=SEVEN_BLOCKS,
        oracle=partial(oracles.big_bird_attention, num_heads=HEADS, block_size=2),
        peers=("transformers BigBirdBlockSparseAttention",),
    ),
    Mechanism(
        name="LearnedSinkAttention",
        family="patterns",
        file="patterns/learned_sink.py",
        paper=Paper("OpenAI", 2025, "https://arxiv.org/abs/2508.10925"),
        equation=r"\alpha_{ij} = \exp(s_{ij}) / \left(\exp(b_h) + \sum_{j'} \exp(s_{ij'})\right)",
        module=Part("LearnedSinkAttention", {"embed_dim": EMBED, "num_heads": HEADS}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        oracle=partial(oracles.learned_sink_attention, num_heads=HEADS),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("transformers GptOssAttention", "x-transformers Attention"),
    ),
    Mechanism(
        name="PersistentMemoryAttention",
        family="patterns",
        file="patterns/persistent_memory.py",
        paper=Paper("Sukhbaatar et al.", 2019, "https://arxiv.org/abs/1907.01470"),
        equation=r"\mathrm{softmax}\left([K q_i; \tilde K q_i] / \sqrt{d}\right)^\top [V; \tilde V]",
        module=Part(
            "PersistentMemoryAttention",
            {
                "embed_dim": EMBED,
                "num_heads": HEADS,
                "num_memories": SIX_MEMORIES["columns"] - SIZES["query"],
            },
        ),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=("batch", "heads", "query", "columns"),
        sizes=SIX_MEMORIES,
        oracle=partial(oracles.persistent_memory_attention, num_heads=HEADS),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("torch.nn.MultiheadAttention, add_bias_kv", "x-transformers Attention"),
    ),
    Mechanism(
        name="StreamingAttention",
        family="patterns",
        file="patterns/streaming.py",
        paper=Paper("Xiao et al.", 2023, "https://arxiv.org/abs/2309.17453"),
        growth="n",
        equation=r"\sum_{j \le i, \; j < s \,\lor\, j > i - W} \alpha_{ij} v_j",
        module=Part(
            "StreamingAttention",
            {
                "embed_dim": EMBED,
                "num_heads": HEADS,
                "window": 3,
                "num_sinks": 1,
                "position": Part("RotaryEmbedding", {"head_dim": 4}),
            },
        ),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        causal=True,
        sizes=SEVEN_TOKENS,
        oracle=partial(oracles.streaming_attention, num_heads=HEADS, window=3, num_sinks=1, rotary_dim=4),
        decoding="cache",
        no_peer="transformers removed its SinkCache, and no other package has this class; the oracle decodes token by "
        "token with such a cache.",
    ),
)
