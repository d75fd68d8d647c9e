"""Self-attention restricted to position-dependent patterns: windows, chunks, blocks and sinks."""

from torch_attention.patterns.big_bird import BigBirdAttention as BigBirdAttention
from torch_attention.patterns.big_bird import block_sparse_mask as block_sparse_mask
from torch_attention.patterns.big_bird import draw_random_blocks as draw_random_blocks
from torch_attention.patterns.chunked import ChunkedAttention as ChunkedAttention
from torch_attention.patterns.learned_sink import LearnedSinkAttention as LearnedSinkAttention
from torch_attention.patterns.longformer import LongformerAttention as LongformerAttention
from torch_attention.patterns.longformer import local_global_mask as local_global_mask
from torch_attention.patterns.persistent_memory import PersistentMemoryAttention as PersistentMemoryAttention
from torch_attention.patterns.sliding_window import SlidingWindowAttention as SlidingWindowAttention
from torch_attention.patterns.streaming import StreamingAttention as StreamingAttention
