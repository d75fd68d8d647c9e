"""Every attention mechanism in JAX / Flax NNX; the mirror of `torch_attention`."""

import warnings

from jax_attention.attention_basics import BasicAttention as BasicAttention
from jax_attention.attention_basics import LuongAttention as LuongAttention
from jax_attention.attention_basics import ScaledDotProductAttention as ScaledDotProductAttention
from jax_attention.classic import ConcatScore as ConcatScore
from jax_attention.classic import DotScore as DotScore
from jax_attention.classic import GeneralScore as GeneralScore
from jax_attention.cross_attention import CrossAttention as CrossAttention
from jax_attention.cross_attention import EncoderDecoderAttention as EncoderDecoderAttention
from jax_attention.cross_attention import MultiHeadCrossAttention as MultiHeadCrossAttention
from jax_attention.heads import AbsorbedLatentAttention as AbsorbedLatentAttention
from jax_attention.heads import GroupedQueryAttention as GroupedQueryAttention
from jax_attention.heads import LatentCache as LatentCache
from jax_attention.heads import MultiHeadLatentAttention as MultiHeadLatentAttention
from jax_attention.keeps import DecoderKeep as DecoderKeep
from jax_attention.masks import and_masks as and_masks
from jax_attention.masks import causal_mask as causal_mask
from jax_attention.masks import document_mask as document_mask
from jax_attention.masks import length_mask as length_mask
from jax_attention.masks import not_mask as not_mask
from jax_attention.masks import or_masks as or_masks
from jax_attention.masks import padding_mask as padding_mask
from jax_attention.masks import prefix_mask as prefix_mask
from jax_attention.masks import sliding_window_mask as sliding_window_mask
from jax_attention.ops import dot_product_attention as dot_product_attention
from jax_attention.ops import dot_product_attention_weights as dot_product_attention_weights
from jax_attention.outputs import AttentionOutput as AttentionOutput
from jax_attention.outputs import DecoderOutput as DecoderOutput
from jax_attention.outputs import EncoderOutput as EncoderOutput
from jax_attention.outputs import RecurrentOutput as RecurrentOutput
from jax_attention.positions import RotaryEmbedding as RotaryEmbedding
from jax_attention.self_attention import CausalSelfAttention as CausalSelfAttention
from jax_attention.self_attention import MultiHeadSelfAttention as MultiHeadSelfAttention
from jax_attention.self_attention import SelfAttention as SelfAttention
from jax_attention.sparse import TopKAttention as TopKAttention
from jax_attention.vision import AxialAttention as AxialAttention
from jax_attention.vision import AxialKeep as AxialKeep
from jax_attention.vision import AxialOutput as AxialOutput
from jax_attention.vision import DecomposedPositionAttention as DecomposedPositionAttention
from jax_attention.vision import GridOutput as GridOutput
from jax_attention.vision import PatchEmbedding as PatchEmbedding
from jax_attention.vision import ShiftedWindowAttention as ShiftedWindowAttention
from jax_attention.vision import SpatialReductionAttention as SpatialReductionAttention
from jax_attention.vision import ViTBlock as ViTBlock
from jax_attention.vision import WindowAttention as WindowAttention

# `python -m jax_attention.self_attention` runs a module that this package has imported already, as it should.
warnings.filterwarnings("ignore", message="'jax_attention.* found in sys.modules", category=RuntimeWarning)
