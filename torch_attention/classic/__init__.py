"""Attention mechanisms of recurrent networks, from before the transformer."""

from torch_attention.classic.hierarchical import HierarchicalAttentionPooling as HierarchicalAttentionPooling
from torch_attention.classic.location_aware import LocationAwareAttention as LocationAwareAttention
from torch_attention.classic.pointer import PointerAttention as PointerAttention
from torch_attention.classic.scores import ConcatScore as ConcatScore
from torch_attention.classic.scores import DotScore as DotScore
from torch_attention.classic.scores import GeneralScore as GeneralScore
