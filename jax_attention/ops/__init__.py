"""Attention as pure functions of arrays, on `(..., heads, length, head_dim)`."""

from jax_attention.ops.arrays import scan as scan
from jax_attention.ops.arrays import solve_unit_lower as solve_unit_lower
from jax_attention.ops.block_mask import BlockMask as BlockMask
from jax_attention.ops.block_mask import create_block_mask as create_block_mask
from jax_attention.ops.decay import DecayedProducts as DecayedProducts
from jax_attention.ops.decay import decay_matrix as decay_matrix
from jax_attention.ops.decay import decayed_products as decayed_products
from jax_attention.ops.decay import join_chunks as join_chunks
from jax_attention.ops.decay import split_chunks as split_chunks
from jax_attention.ops.definition import dot_product_attention_weights as dot_product_attention_weights
from jax_attention.ops.definition import dot_product_scores as dot_product_scores
from jax_attention.ops.definition import weighted_values as weighted_values
from jax_attention.ops.dispatch import Scoring as Scoring
from jax_attention.ops.dispatch import attend as attend
from jax_attention.ops.dispatch import dot_product_attention as dot_product_attention
from jax_attention.ops.flex import flex_attention as flex_attention
from jax_attention.ops.heads import Placed as Placed
from jax_attention.ops.heads import merge_heads as merge_heads
from jax_attention.ops.heads import repeat_heads as repeat_heads
from jax_attention.ops.heads import split_heads as split_heads
from jax_attention.ops.heads import top_k_mask as top_k_mask
from jax_attention.ops.single_head import additive_features as additive_features
from jax_attention.ops.single_head import score_attention as score_attention
from jax_attention.ops.softmax import at_least_float32 as at_least_float32
from jax_attention.ops.softmax import masked_softmax as masked_softmax
from jax_attention.ops.softmax import sink_softmax as sink_softmax
