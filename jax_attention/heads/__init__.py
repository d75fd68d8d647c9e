"""Fewer keys and values than queries: what makes a cache small."""

from jax_attention.heads.grouped_query import GroupedQueryAttention as GroupedQueryAttention
