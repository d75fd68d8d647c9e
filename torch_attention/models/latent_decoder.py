r"""A decoder of DeepSeek-V3's shape: latent attention, and a mixture of experts (DeepSeek-AI 2024).

$$ x \leftarrow x + \mathrm{MLA}(\mathrm{norm}(x)), \qquad x \leftarrow x + \mathrm{experts}(\mathrm{norm}(x)) $$

Two changes from `RotaryDecoder`: keys and values of all heads come from one latent, and all layers but the first few
choose among feed-forward networks.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.caches import Cache
from torch_attention.feed_forward import GatedFeedForward
from torch_attention.heads.latent import MultiHeadLatentAttention
from torch_attention.layers import Factory, embedding, linear, rms_norm
from torch_attention.models.experts import ExpertsConfig, MixtureOfExperts
from torch_attention.models.language import LanguageModel
from torch_attention.outputs import AttentionOutput, CachedOutput
from torch_attention.positions.rotary import RotaryEmbedding


@dataclass(frozen=True)
class LatentDecoderConfig:
    """The sizes of a decoder with latent attention.

    Attributes:
        vocab_size: number of tokens.
        embed_dim: features of a position.
        num_heads: heads of each layer.
        num_layers: number of layers.
        ffn_dim: features inside the feed-forward network of the first layers.
        kv_lora_rank: features of the latent that keys and values are made from.
        q_lora_rank: features of that for queries; None makes them from the input.
        nope_head_dim: features of a head's query and key that know no position.
        rope_head_dim: features that are turned.
        value_head_dim: features of a head's value.
        experts: of the other layers; None if all layers are as the first.
        num_dense_layers: how many layers have one feed-forward network.
        norm_eps: added to the mean square in each normalisation but those of the latents.
        rope_base: of the frequencies of the positions.
        rope_frequencies: one a pair, instead of those that the base gives.
        rope_amplitude: factor on what is turned.
        interleaved: whether features 2i and 2i + 1 make a pair.
        scale: factor on the scores; `1 / sqrt(nope_head_dim + rope_head_dim)` if None.
        tied: whether logits come from the embeddings again, instead of a head.
    """

    vocab_size: int
    embed_dim: int
    num_heads: int
    num_layers: int
    ffn_dim: int
    kv_lora_rank: int
    q_lora_rank: int | None
    nope_head_dim: int
    rope_head_dim: int
    value_head_dim: int
    experts: ExpertsConfig | None = None
    num_dense_layers: int = 0
    norm_eps: float = 1e-6
    rope_base: float = 10000.0
    rope_frequencies: tuple[float, ...] | None = None
    rope_amplitude: float = 1.0
    interleaved: bool = True
    scale: float | None = None
    tied: bool = False


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
        dim, eps = config.embed_dim, config.norm_eps
        self.attention_norm = rms_norm(dim, eps=eps, **factory)
        self.attention = MultiHeadLatentAttention(
            dim,
            config.num_heads,
            config.kv_lora_rank,
            config.nope_head_dim,
            config.rope_head_dim,
            config.value_head_dim,
            position=RotaryEmbedding(
                config.rope_head_dim,
                base=config.rope_base,
                interleaved=config.interleaved,
                frequencies=config.rope_frequencies,
                amplitude=config.rope_amplitude,
            ),
            q_lora_rank=config.q_lora_rank,
            scale=config.scale,
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
            self.attention_norm(x), mask, positions=positions, cache=cache, need_weights=need_weights
        )
        x = x + attended.output  # batch length embed
        x = x + self.ffn(self.ffn_norm(x))  # batch length embed
        return attended._replace(output=x)


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
        self.config = config
        self.token_embedding = embedding(config.vocab_size, config.embed_dim, **factory)
        self.layers = nn.ModuleList(
            [
                LatentDecoderLayer(config, n < config.num_dense_layers, **factory)
                for n in range(config.num_layers)
            ]
        )
        self.final_norm = rms_norm(config.embed_dim, eps=config.norm_eps, **factory)
        self.head = (
            None if config.tied else linear(config.embed_dim, config.vocab_size, bias=False, **factory)
        )
