"""Keys chosen by what they hold."""

from jax_attention.sparse.top_k import TopKAttention as TopKAttention
