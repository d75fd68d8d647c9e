"""Self-attention restricted to position-dependent patterns: windows, chunks, blocks and sinks."""

from jax_attention.patterns.big_bird import BigBirdAttention as BigBirdAttention
from jax_attention.patterns.big_bird import block_sparse_mask as block_sparse_mask
from jax_attention.patterns.big_bird import draw_random_blocks as draw_random_blocks
from jax_attention.patterns.chunked import ChunkedAttention as ChunkedAttention
from jax_attention.patterns.learned_sink import LearnedSinkAttention as LearnedSinkAttention
from jax_attention.patterns.longformer import LongformerAttention as LongformerAttention
from jax_attention.patterns.longformer import local_global_mask as local_global_mask
from jax_attention.patterns.persistent_memory import PersistentMemoryAttention as PersistentMemoryAttention
from jax_attention.patterns.sliding_window import SlidingWindowAttention as SlidingWindowAttention
from jax_attention.patterns.streaming import StreamingAttention as StreamingAttention
