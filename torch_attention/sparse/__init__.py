"""Sparse self-attention whose visible keys are selected by content."""

from torch_attention.sparse.deepseek_sparse import DeepSeekSparseAttention as DeepSeekSparseAttention
from torch_attention.sparse.lightning_indexer import LightningIndexer as LightningIndexer
from torch_attention.sparse.lsh import LSHAttention as LSHAttention
from torch_attention.sparse.mixture_of_blocks import MixtureOfBlockAttention as MixtureOfBlockAttention
from torch_attention.sparse.native_sparse import NativeSparseAttention as NativeSparseAttention
from torch_attention.sparse.top_k import TopKAttention as TopKAttention
