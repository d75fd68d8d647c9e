r"""A decoder of DeepSeek-V3's shape: latent attention, and a mixture of experts (DeepSeek-AI 2024).

$$ x \leftarrow x + \mathrm{MLA}(\mathrm{norm}(x)), \qquad x \leftarrow x + \mathrm{experts}(\mathrm{norm}(x)) $$

Two changes from `RotaryDecoder`: keys and values of all heads come from one latent, and all layers but the first few
choose among feed-forward networks.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.caches import Cache
from torch_attention.feed_forward import GatedFeedForward
from torch_attention.heads.latent import MultiHeadLatentAttention
from torch_attention.layers import Factory, embedding, linear, normalise, rms_norm
from torch_attention.models.attention import RopeConfig
from torch_attention.models.experts import ExpertsConfig, MixtureOfExperts
from torch_attention.models.language import LanguageModel
from torch_attention.outputs import AttentionOutput, CachedOutput


@checked
@dataclass(frozen=True)
class LatentHeadsConfig:
    """The heads of latent attention.

    Attributes:
        embed_dim: features of input and output.
        num_heads: heads of queries, keys and values.
        kv_lora_rank: features of the latent that keys and values are made from.
        q_lora_rank: features of that for queries; None makes them from the input.
        nope_head_dim: features of a head's query and key that know no position.
        rope_head_dim: features that are turned.
        value_head_dim: features of a head's value.
        scale: factor on the scores; `1 / sqrt(nope_head_dim + rope_head_dim)` if None.
    """

    embed_dim: int
    num_heads: int
    kv_lora_rank: int
    q_lora_rank: int | None
    nope_head_dim: int
    rope_head_dim: int
    value_head_dim: int
    scale: float | None = None


@checked
@dataclass(frozen=True)
class LatentDecoderConfig:
    """The sizes of a decoder with latent attention.

    Attributes:
        vocab_size: number of tokens.
        num_layers: number of layers.
        ffn_dim: features inside the feed-forward network of the first layers.
        heads: of each layer's attention; its `embed_dim` is the model's.
        rope: how positions turn queries and keys.
        experts: of the other layers; None if all layers are as the first.
        num_dense_layers: how many layers have one feed-forward network.
        norm_eps: added to the mean square in each normalisation but those of the latents.
        tied: whether logits come from the embeddings again, instead of a head.
    """

    vocab_size: int
    num_layers: int
    ffn_dim: int
    heads: LatentHeadsConfig
    rope: RopeConfig
    experts: ExpertsConfig | None = None
    num_dense_layers: int = 0
    norm_eps: float = 1e-6
    tied: bool = False

    @property
    def num_heads(self) -> int:
        """Heads of the weights."""
        return self.heads.num_heads


@checked
class LatentDecoderLayer(nn.Module):
    """Latent attention, then one feed-forward network or several: x = x + f(norm(x)) each (DeepSeek-AI 2024).

    Args:
        config: the sizes.
        dense: whether there is one feed-forward network.

    Raises:
        ValueError: a size below 1, or groups of experts that do not divide.
    """

    def __init__(
        self,
        config: LatentDecoderConfig,
        dense: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        heads, eps = config.heads, config.norm_eps
        dim = heads.embed_dim
        self.attention_norm = rms_norm(dim, eps=eps, **factory)
        self.attention = MultiHeadLatentAttention(
            dim,
            heads.num_heads,
            heads.kv_lora_rank,
            heads.nope_head_dim,
            heads.rope_head_dim,
            heads.value_head_dim,
            position=config.rope.embedding(heads.rope_head_dim),
            q_lora_rank=heads.q_lora_rank,
            scale=heads.scale,
            **factory,
        )
        self.ffn_norm = rms_norm(dim, eps=eps, **factory)
        self.ffn = (
            GatedFeedForward(dim, config.ffn_dim, **factory)
            if dense or config.experts is None
            else MixtureOfExperts(dim, config.experts, **factory)
        )

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        positions: Int[Tensor, "..."] | None = None,
        cache: Cache | None = None,
        need_weights: bool = True,
    ) -> AttentionOutput | CachedOutput:
        """Decode one layer; arguments, result and errors as in `MultiHeadLatentAttention`."""
        attended = self.attention(
            normalise(self.attention_norm, x),
            mask,
            positions=positions,
            cache=cache,
            need_weights=need_weights,
        )
        x = x + attended.output  # batch length embed
        x = x + self.ffn(normalise(self.ffn_norm, x))  # batch length embed
        return attended._replace(output=x)


@checked
class LatentDecoder(LanguageModel):
    """Tokens in, for each of them a score of every token as the next one out (DeepSeek-AI 2024).

    Args:
        config: the sizes.

    Raises:
        ValueError: a size below 1, or groups of experts that do not divide.
    """

    def __init__(
        self,
        config: LatentDecoderConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        dim = config.heads.embed_dim
        self.config = config
        self.token_embedding = embedding(config.vocab_size, dim, **factory)
        self.layers = nn.ModuleList(
            [
                LatentDecoderLayer(config, n < config.num_dense_layers, **factory)
                for n in range(config.num_layers)
            ]
        )
        self.final_norm = rms_norm(dim, eps=config.norm_eps, **factory)
        self.head = None if config.tied else linear(dim, config.vocab_size, bias=False, **factory)
