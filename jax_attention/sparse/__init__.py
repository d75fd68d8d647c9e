"""Sparse self-attention whose visible keys are selected by content."""

from jax_attention.sparse.deepseek_sparse import DeepSeekSparseAttention as DeepSeekSparseAttention
from jax_attention.sparse.lightning_indexer import LightningIndexer as LightningIndexer
from jax_attention.sparse.lsh import LSHAttention as LSHAttention
from jax_attention.sparse.mixture_of_blocks import MixtureOfBlockAttention as MixtureOfBlockAttention
from jax_attention.sparse.native_sparse import NativeSparseAttention as NativeSparseAttention
from jax_attention.sparse.top_k import TopKAttention as TopKAttention
