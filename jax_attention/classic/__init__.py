"""Attention mechanisms of recurrent networks, from before the transformer."""

from jax_attention.classic.hierarchical import HierarchicalAttentionPooling as HierarchicalAttentionPooling
from jax_attention.classic.location_aware import LocationAwareAttention as LocationAwareAttention
from jax_attention.classic.pointer import PointerAttention as PointerAttention
from jax_attention.classic.scores import ConcatScore as ConcatScore
from jax_attention.classic.scores import DotScore as DotScore
from jax_attention.classic.scores import GeneralScore as GeneralScore
