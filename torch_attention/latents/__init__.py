"""Attention with learned query vectors, and attention over sets."""

from torch_attention.latents.attention_block import MultiheadAttentionBlock as MultiheadAttentionBlock
from torch_attention.latents.gru import GRUCell as GRUCell
from torch_attention.latents.perceiver import PerceiverAttention as PerceiverAttention
from torch_attention.latents.pooling import AttentionPooling as AttentionPooling
from torch_attention.latents.set_transformer import InducedKeep as InducedKeep
from torch_attention.latents.set_transformer import InducedOutput as InducedOutput
from torch_attention.latents.set_transformer import InducedSetAttentionBlock as InducedSetAttentionBlock
from torch_attention.latents.set_transformer import PoolingByAttention as PoolingByAttention
from torch_attention.latents.set_transformer import SetAttentionBlock as SetAttentionBlock
from torch_attention.latents.slot_attention import SlotAttention as SlotAttention
from torch_attention.latents.slot_attention import SlotOutput as SlotOutput
