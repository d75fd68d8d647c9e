"""Self-attention with fewer key and value heads than query heads, for a smaller KV cache."""

from jax_attention.heads.absorbed_latent import AbsorbedLatentAttention as AbsorbedLatentAttention
from jax_attention.heads.absorbed_latent import absorbed_latent_attention as absorbed_latent_attention
from jax_attention.heads.grouped_query import GroupedQueryAttention as GroupedQueryAttention
from jax_attention.heads.latent import Latents as Latents
from jax_attention.heads.latent import MultiHeadLatentAttention as MultiHeadLatentAttention
from jax_attention.heads.multi_query import MultiQueryAttention as MultiQueryAttention
