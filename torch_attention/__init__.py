"""Every attention mechanism in PyTorch; the mirror of `jax_attention`."""

import warnings

from torch_attention.attention_basics import BasicAttention as BasicAttention
from torch_attention.attention_basics import LuongAttention as LuongAttention
from torch_attention.attention_basics import ScaledDotProductAttention as ScaledDotProductAttention
from torch_attention.classic import ConcatScore as ConcatScore
from torch_attention.classic import DotScore as DotScore
from torch_attention.classic import GeneralScore as GeneralScore
from torch_attention.cross_attention import CrossAttention as CrossAttention
from torch_attention.cross_attention import EncoderDecoderAttention as EncoderDecoderAttention
from torch_attention.cross_attention import MultiHeadCrossAttention as MultiHeadCrossAttention
from torch_attention.heads import AbsorbedLatentAttention as AbsorbedLatentAttention
from torch_attention.heads import GroupedQueryAttention as GroupedQueryAttention
from torch_attention.heads import LatentCache as LatentCache
from torch_attention.heads import MultiHeadLatentAttention as MultiHeadLatentAttention
from torch_attention.keeps import DecoderKeep as DecoderKeep
from torch_attention.masks import and_masks as and_masks
from torch_attention.masks import causal_mask as causal_mask
from torch_attention.masks import document_mask as document_mask
from torch_attention.masks import length_mask as length_mask
from torch_attention.masks import not_mask as not_mask
from torch_attention.masks import or_masks as or_masks
from torch_attention.masks import padding_mask as padding_mask
from torch_attention.masks import prefix_mask as prefix_mask
from torch_attention.masks import sliding_window_mask as sliding_window_mask
from torch_attention.ops import dot_product_attention as dot_product_attention
from torch_attention.ops import dot_product_attention_weights as dot_product_attention_weights
from torch_attention.outputs import AttentionOutput as AttentionOutput
from torch_attention.outputs import DecoderOutput as DecoderOutput
from torch_attention.outputs import EncoderOutput as EncoderOutput
from torch_attention.outputs import RecurrentOutput as RecurrentOutput
from torch_attention.positions import RotaryEmbedding as RotaryEmbedding
from torch_attention.self_attention import CausalSelfAttention as CausalSelfAttention
from torch_attention.self_attention import MultiHeadSelfAttention as MultiHeadSelfAttention
from torch_attention.self_attention import SelfAttention as SelfAttention
from torch_attention.sparse import TopKAttention as TopKAttention
from torch_attention.vision import AxialAttention as AxialAttention
from torch_attention.vision import AxialKeep as AxialKeep
from torch_attention.vision import AxialOutput as AxialOutput
from torch_attention.vision import DecomposedPositionAttention as DecomposedPositionAttention
from torch_attention.vision import GridOutput as GridOutput
from torch_attention.vision import PatchEmbedding as PatchEmbedding
from torch_attention.vision import ShiftedWindowAttention as ShiftedWindowAttention
from torch_attention.vision import SpatialReductionAttention as SpatialReductionAttention
from torch_attention.vision import ViTBlock as ViTBlock
from torch_attention.vision import WindowAttention as WindowAttention

# `python -m torch_attention.self_attention` runs a module that this package has imported already, as it should.
warnings.filterwarnings("ignore", message="'torch_attention.* found in sys.modules", category=RuntimeWarning)
