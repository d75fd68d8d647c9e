"""Fewer keys and values than queries: what makes a cache small."""

from torch_attention.heads.grouped_query import GroupedQueryAttention as GroupedQueryAttention
