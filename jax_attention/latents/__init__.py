"""Attention with learned query vectors, and attention over sets."""

from jax_attention.latents.attention_block import MultiheadAttentionBlock as MultiheadAttentionBlock
from jax_attention.latents.gru import GRUCell as GRUCell
from jax_attention.latents.perceiver import PerceiverAttention as PerceiverAttention
from jax_attention.latents.pooling import AttentionPooling as AttentionPooling
from jax_attention.latents.set_transformer import InducedKeep as InducedKeep
from jax_attention.latents.set_transformer import InducedOutput as InducedOutput
from jax_attention.latents.set_transformer import InducedSetAttentionBlock as InducedSetAttentionBlock
from jax_attention.latents.set_transformer import PoolingByAttention as PoolingByAttention
from jax_attention.latents.set_transformer import SetAttentionBlock as SetAttentionBlock
from jax_attention.latents.slot_attention import SlotAttention as SlotAttention
from jax_attention.latents.slot_attention import SlotOutput as SlotOutput
