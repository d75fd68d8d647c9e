"""Low-rank approximations of self-attention over the sequence length."""

from jax_attention.low_rank.linformer import LinformerAttention as LinformerAttention
from jax_attention.low_rank.nystrom import NystromAttention as NystromAttention
