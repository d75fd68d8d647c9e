"""Keys chosen by what they hold."""

from torch_attention.sparse.top_k import TopKAttention as TopKAttention
