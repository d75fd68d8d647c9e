r"""A decoder with layer norms, attention and feed-forward side by side (Wang & Komatsuzaki 2021).

$$ x \leftarrow x + \mathrm{attention}(\mathrm{norm}_1(x)) + \mathrm{ffn}(\mathrm{norm}_2(x)) $$

One change from `Decoder`: both sublayers read the same x, so that they can run at once. What else tells the families
apart:

| family   | positions          | residual   | norms a layer | what it has besides                    |
|----------|--------------------|------------|---------------|----------------------------------------|
| GPT-NeoX | rotary, in part    | parallel   | 2             | biases, a head of its own              |
| Falcon   | rotary             | parallel   | 1 or 2        | one or few key/value heads, no biases  |
| BLOOM    | ALiBi              | sequential | 2             | biases, embeddings that are normalised |
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.caches import Cache
from torch_attention.feed_forward import FeedForward
from torch_attention.layers import Factory, embedding, layer_norm, linear, normalise
from torch_attention.models.attention import HeadsConfig, ModelAttention
from torch_attention.models.language import LanguageModel
from torch_attention.outputs import AttentionOutput, CachedOutput
from torch_attention.positions.alibi import ALiBi
from torch_attention.positions.rotary import RotaryEmbedding


@checked
@dataclass(frozen=True)
class ParallelDecoderConfig:
    """The sizes of a decoder with layer norms, and what its family adds.

    Attributes:
        vocab_size: number of tokens.
        num_layers: number of layers.
        ffn_dim: features inside the feed-forward network.
        heads: of each layer's attention; its `embed_dim` is the model's.
        parallel: whether both sublayers read the same x, instead of one after the other.
        shared_norm: whether they read the same norm of it, too.
        rotary_dim: how many features of a head positions turn; None for ALiBi instead.
        rope_base: of the frequencies of the positions.
        activation: of the feed-forward network.
        ffn_bias: whether its maps have biases.
        norm_eps: added to the variance in each normalisation.
        embedding_norm: whether the embeddings are normalised.
        tied: whether logits come from the embeddings again, instead of a head.
    """

    vocab_size: int
    num_layers: int
    ffn_dim: int
    heads: HeadsConfig
    parallel: bool = True
    shared_norm: bool = False
    rotary_dim: int | None = None
    rope_base: float = 10000.0
    activation: str = "gelu"
    ffn_bias: bool = True
    norm_eps: float = 1e-5
    embedding_norm: bool = False
    tied: bool = False

    @property
    def num_heads(self) -> int:
        """Heads of the weights."""
        return self.heads.num_heads

    def position(self) -> ALiBi | RotaryEmbedding:
        """What tells queries and keys where they stand."""
        if self.rotary_dim is None:
            return ALiBi(self.heads.num_heads)
        return RotaryEmbedding(self.heads.head_dim, rotary_dim=self.rotary_dim, base=self.rope_base)


@checked
class ParallelDecoderLayer(nn.Module):
    """Causal self-attention beside a feed-forward network, or before it (Wang & Komatsuzaki 2021).

    Args:
        config: the sizes.

    Raises:
        ValueError: heads that do not divide, an unknown activation, or one norm for what is not parallel.
    """

    def __init__(
        self,
        config: ParallelDecoderConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if config.shared_norm and not config.parallel:
            raise ValueError(
                "shared_norm needs parallel=True: what comes later has another x, got parallel=False"
            )
        factory = Factory(device=device, dtype=dtype)
        dim, eps = config.heads.embed_dim, config.norm_eps
        self.parallel = config.parallel
        self.attention_norm = layer_norm(dim, eps=eps, **factory)
        self.attention = ModelAttention(config.heads, **factory)
        self.ffn_norm = None if config.shared_norm else layer_norm(dim, eps=eps, **factory)
        self.ffn = FeedForward(
            dim, config.ffn_dim, activation=config.activation, bias=config.ffn_bias, **factory
        )
        self.position = config.position()

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        positions: Int[Tensor, "..."] | None = None,
        cache: Cache | None = None,
        need_weights: bool = True,
    ) -> AttentionOutput | CachedOutput:
        """Decode one layer; arguments, result and errors as in `ModelAttention`."""
        normed = normalise(self.attention_norm, x)  # batch length embed
        attended = self.attention(
            normed,
            mask,
            position=self.position,
            positions=positions,
            cache=cache,
            need_weights=need_weights,
        )
        after = x + attended.output  # batch length embed
        read = x if self.parallel else after  # batch length embed
        transformed = self.ffn(normed if self.ffn_norm is None else normalise(self.ffn_norm, read))
        return attended._replace(output=after + transformed)


@checked
class ParallelDecoder(LanguageModel):
    """Tokens in, for each of them a score of every token as the next one out (Black et al. 2022).

    Args:
        config: the sizes.

    Raises:
        ValueError: as `ParallelDecoderLayer`.
    """

    def __init__(
        self,
        config: ParallelDecoderConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        dim, eps = config.heads.embed_dim, config.norm_eps
        self.config = config
        self.token_embedding = embedding(config.vocab_size, dim, **factory)
        self.embedding_norm = layer_norm(dim, eps=eps, **factory) if config.embedding_norm else None
        self.layers = nn.ModuleList(
            [ParallelDecoderLayer(config, **factory) for _ in range(config.num_layers)]
        )
        self.final_norm = layer_norm(dim, eps=eps, **factory)
        self.head = None if config.tied else linear(dim, config.vocab_size, bias=False, **factory)

    @checked
    def embed(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length embed"]:
        """The vectors that the first layer reads."""
        x = super().embed(tokens)  # batch length embed
        return x if self.embedding_norm is None else normalise(self.embedding_norm, x)
