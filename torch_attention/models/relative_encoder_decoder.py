r"""An encoder-decoder with relative positions and the layout of T5 (Raffel et al. 2020).

$$ x \leftarrow x + f(\mathrm{norm}(x)) \;\text{for}\; f = \mathrm{self}, \mathrm{cross}, \mathrm{ffn}, \qquad
   s_{ij} = q_i^\top k_j + b_{h,\,\mathrm{bucket}(j - i)} $$

Differences from `EncoderDecoder`: pre-norm layers with RMS norms, scores that are not divided by sqrt(d), and relative
positions as a bias of the self-attention scores, one table for all layers of a stack (in UMT5 for each layer).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.caches import Cache
from torch_attention.checks import check_padding_mask, check_tokens
from torch_attention.cross_attention import MultiHeadCrossAttention
from torch_attention.feed_forward import FeedForward, GatedFeedForward
from torch_attention.heads.grouped_query import GroupedQueryAttention
from torch_attention.layers import Factory, embedding, linear, similarities
from torch_attention.models.sequence import SequenceModel, check_decoding, sequence_output
from torch_attention.models.special_tokens import SpecialTokens
from torch_attention.models.token_masks import token_mask
from torch_attention.models.token_numbers import check_numbers
from torch_attention.norms import normalise, rms_norm
from torch_attention.outputs import (
    CachedDecoderOutput,
    DecoderOutput,
    EncoderOutput,
    SequenceOutput,
    all_weights,
    decoder_output,
)
from torch_attention.positions.t5 import T5Bias


@checked
@dataclass(frozen=True)
class RelativeEncoderDecoderConfig:
    """Sizes of an encoder-decoder with relative positions.

    Attributes:
        vocab_size: number of tokens in the vocabulary, which source and target share.
        embed_dim: number of features per position.
        num_heads: number of heads of every attention.
        head_dim: features per head.
        num_encoder_layers, num_decoder_layers: number of layers of the two stacks.
        ffn_dim: hidden features of the feed-forward networks.
        activation: activation of the feed-forward networks, or of their gates.
        gated: whether the feed-forward networks are gated (T5 1.1).
        norm_eps: epsilon added to the mean square in each normalisation.
        num_buckets, max_distance: as in `T5Bias`.
        shared_position: whether the layers of a stack share one `T5Bias`; False for one in each layer (UMT5).
        tied: whether the output head shares the token embedding's weight (tied embeddings); False for a separate
            weight.
        logit_scale: factor on the input of the output head, `embed_dim ** -0.5` in T5 1.0.
        special_tokens: end, padding and start tokens, the defaults of `generate`.
    """

    vocab_size: int
    embed_dim: int
    num_heads: int
    head_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    ffn_dim: int
    activation: str = "relu"
    gated: bool = False
    norm_eps: float = 1e-6
    num_buckets: int = 32
    max_distance: int = 128
    shared_position: bool = True
    tied: bool = True
    logit_scale: float = 1.0
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)


@checked
class RelativeLayer(nn.Module):
    """Self-attention, cross-attention in a decoder, and feed-forward network: x = x + f(norm(x)) (Raffel et al. 2020).

    Args:
        config: sizes and options of the model.
        decodes: whether the layer belongs to a decoder, with causal self-attention and cross-attention.

    Raises:
        ValueError: the heads do not divide the features, or the activation is unknown.
    """

    def __init__(
        self,
        config: RelativeEncoderDecoderConfig,
        decodes: bool,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        dim, num_heads, eps = config.embed_dim, config.num_heads, config.norm_eps
        options: Any = {"head_dim": config.head_dim, "bias": False, "scale": 1.0, **factory}
        position = None if config.shared_position else t5_bias(config, decodes, factory)
        self.self_norm = rms_norm(dim, eps=eps, **factory)
        self.self_attention = GroupedQueryAttention(
            dim, num_heads, num_heads, is_causal=decodes, position=position, **options
        )
        if decodes:
            self.cross_norm = rms_norm(dim, eps=eps, **factory)
            self.cross_attention = MultiHeadCrossAttention(dim, dim, dim, num_heads, **options)
        self.ffn_norm = rms_norm(dim, eps=eps, **factory)
        ffn = GatedFeedForward if config.gated else FeedForward
        self.ffn = ffn(dim, config.ffn_dim, activation=config.activation, bias=False, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        memory: Float[Tensor, "batch source embed"] | None = None,
        mask: Bool[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
        *,
        position: T5Bias | None = None,
        cache: Cache | None = None,
        need_weights: bool = True,
    ) -> DecoderOutput | CachedDecoderOutput:
        """Run one layer; arguments and errors as in `GroupedQueryAttention`."""
        read = self.self_attention(
            normalise(self.self_norm, x), mask, position=position, cache=cache, need_weights=need_weights
        )
        x = x + read.output  # batch length embed
        across = None
        if memory is not None:
            looked = self.cross_attention(
                normalise(self.cross_norm, x), memory, memory_mask, need_weights=need_weights
            )
            x, across = x + looked.output, looked.weights  # batch length embed
        x = x + self.ffn(normalise(self.ffn_norm, x))  # batch length embed
        return decoder_output(x, read, across)


@checked
class RelativeEncoderDecoder(SequenceModel):
    """Encoder-decoder with relative positions, from tokens to next-token logits (Raffel et al. 2020).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: the heads do not divide the features, the activation is unknown, or there are too few buckets.
    """

    def __init__(
        self,
        config: RelativeEncoderDecoderConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        dim, eps, shares = config.embed_dim, config.norm_eps, config.shared_position
        self.config = config
        self.token_embedding = embedding(config.vocab_size, dim, **factory)
        self.encoder_position = t5_bias(config, False, factory) if shares else None
        self.encoder_layers = nn.ModuleList(
            [RelativeLayer(config, False, **factory) for _ in range(config.num_encoder_layers)]
        )
        self.encoder_norm = rms_norm(dim, eps=eps, **factory)
        self.decoder_position = t5_bias(config, True, factory) if shares else None
        self.decoder_layers = nn.ModuleList(
            [RelativeLayer(config, True, **factory) for _ in range(config.num_decoder_layers)]
        )
        self.decoder_norm = rms_norm(dim, eps=eps, **factory)
        self.head = None if config.tied else linear(dim, config.vocab_size, bias=False, **factory)

    @checked
    def encode(
        self,
        source: Int[Tensor, "batch source"],
        source_mask: Shaped[Tensor, "..."] | None = None,
        *,
        need_weights: bool = False,
    ) -> EncoderOutput:
        """Encode `source`; arguments as in the model's call."""
        check_tokens(source)
        check_numbers("source", source, self.config.vocab_size)
        source_mask = token_mask(source_mask, source.shape, name="source_mask")
        check_padding_mask(source_mask, *source.shape)
        x = self.token_embedding(source)  # batch source embed
        layers = []
        for layer in self.encoder_layers:
            layers.append(
                layer(x, None, source_mask, position=self.encoder_position, need_weights=need_weights)
            )
            x = layers[-1].output  # batch source embed
        weights = all_weights(layer.self_weights for layer in layers)
        return EncoderOutput(normalise(self.encoder_norm, x), None, weights)

    @checked
    def decode(
        self,
        target: Int[Tensor, "batch target"],
        memory: Float[Tensor, "batch source embed"],
        target_mask: Shaped[Tensor, "..."] | None = None,
        source_mask: Shaped[Tensor, "..."] | None = None,
        *,
        caches: tuple[Cache, ...] | None = None,
        need_weights: bool = False,
    ) -> SequenceOutput:
        """Compute the logits of the next token; arguments as in `SequenceModel.decode`."""
        num_layers = self.config.num_decoder_layers
        target_mask = token_mask(target_mask, target.shape, name="target_mask")
        source_mask = token_mask(source_mask, memory.shape[:2], name="source_mask")
        check_decoding(target, target_mask, caches, num_layers, self.config.num_heads)
        check_numbers("target", target, self.config.vocab_size)
        x = self.token_embedding(target)  # batch target embed
        layers = []
        for layer, cache in zip(self.decoder_layers, caches or (None,) * num_layers, strict=True):
            layers.append(
                layer(
                    x,
                    memory,
                    target_mask,
                    source_mask,
                    position=self.decoder_position,
                    cache=cache,
                    need_weights=need_weights,
                )
            )
            x = layers[-1].output  # batch target embed
        return sequence_output(self._logits(normalise(self.decoder_norm, x)), layers)

    def _logits(self, x: Float[Tensor, "batch target embed"]) -> Float[Tensor, "batch target vocab"]:
        x = x * self.config.logit_scale  # batch target embed
        return similarities(self.token_embedding, x) if self.head is None else self.head(x)


def t5_bias(config: RelativeEncoderDecoderConfig, decodes: bool, factory: Factory) -> T5Bias:
    """Build the relative position bias of an encoder, or of a decoder, whose distances are never negative."""
    return T5Bias(
        config.num_heads,
        num_buckets=config.num_buckets,
        max_distance=config.max_distance,
        bidirectional=not decodes,
        **factory,
    )
