"""Self-attention with fewer key and value heads than query heads, for a smaller KV cache."""

from torch_attention.heads.absorbed_latent import AbsorbedLatentAttention as AbsorbedLatentAttention
from torch_attention.heads.absorbed_latent import absorbed_latent_attention as absorbed_latent_attention
from torch_attention.heads.grouped_query import GroupedQueryAttention as GroupedQueryAttention
from torch_attention.heads.latent import Latents as Latents
from torch_attention.heads.latent import MultiHeadLatentAttention as MultiHeadLatentAttention
from torch_attention.heads.multi_query import MultiQueryAttention as MultiQueryAttention
