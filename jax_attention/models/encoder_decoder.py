r"""An encoder-decoder with the layout of BART (Lewis et al. 2019): the Transformer of Vaswani et al. 2017.

$$ m = \mathrm{encode}(s), \qquad
   \mathrm{logits} = \mathrm{decode}(t, m)\, E^\top $$

The encoder is an `Encoder` without token types; the decoder layers are `EncoderDecoderAttention`. Both share one token
embedding E, which is also the output head (tied embeddings).
"""

from dataclasses import dataclass, field

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.caches import Cache
from jax_attention.checks import check_padding_mask, check_tokens
from jax_attention.cross_attention import EncoderDecoderAttention
from jax_attention.layers import Factory, embedding, similarities
from jax_attention.models.encoder import EncoderConfig, EncoderLayer
from jax_attention.models.sequence import SequenceModel, check_decoding, sequence_output
from jax_attention.models.special_tokens import SpecialTokens
from jax_attention.models.token_masks import token_mask
from jax_attention.models.token_numbers import check_numbers
from jax_attention.models.token_positions import places
from jax_attention.norms import layer_norm, normalise
from jax_attention.outputs import EncoderOutput, SequenceOutput, all_weights


@checked
@dataclass(frozen=True)
class StackConfig:
    """Sizes of a stack of layers.

    Attributes:
        num_layers: number of layers.
        num_heads: number of attention heads per layer; must divide the model's `embed_dim`.
        ffn_dim: hidden features of the feed-forward network.
    """

    num_layers: int
    num_heads: int
    ffn_dim: int


@checked
@dataclass(frozen=True)
class EncoderDecoderConfig:
    """Sizes of an encoder-decoder.

    Attributes:
        vocab_size: number of tokens in the vocabulary, which source and target share.
        embed_dim: number of features per position.
        encoder, decoder: sizes of the two stacks.
        max_len: number of positions with an embedding, the longest sequence.
        first_position: index of the first token's row in the position embeddings; 2 in BART.
        activation: activation of the feed-forward networks, as in `FeedForward`.
        norm_eps: epsilon added to the variance in each normalisation.
        embed_scale: factor on the token embeddings.
        special_tokens: end, padding and start tokens, the defaults of `generate`.
    """

    vocab_size: int
    embed_dim: int
    encoder: StackConfig
    decoder: StackConfig
    max_len: int
    first_position: int = 0
    activation: str = "gelu"
    norm_eps: float = 1e-5
    embed_scale: float = 1.0
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)


@checked
class EncoderDecoder(SequenceModel):
    """Encoder-decoder Transformer, from source and target tokens to next-token logits (Vaswani et al. 2017).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: `embed_dim` is not divisible by a number of heads, or the activation is unknown.
    """

    def __init__(
        self,
        config: EncoderDecoderConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        dim, eps, rows = config.embed_dim, config.norm_eps, config.max_len + config.first_position
        self.config = config
        self.token_embedding = embedding(config.vocab_size, dim, **factory)
        self.encoder_position_embedding = embedding(rows, dim, **factory)
        self.encoder_embedding_norm = layer_norm(dim, eps=eps, **factory)
        reading = EncoderConfig(
            config.vocab_size,
            dim,
            config.encoder.num_heads,
            config.encoder.num_layers,
            config.encoder.ffn_dim,
            config.max_len,
            activation=config.activation,
            norm_eps=eps,
        )
        self.encoder_layers = nnx.List(
            [EncoderLayer(reading, **factory) for _ in range(config.encoder.num_layers)]
        )
        self.decoder_position_embedding = embedding(rows, dim, **factory)
        self.decoder_embedding_norm = layer_norm(dim, eps=eps, **factory)
        self.decoder_layers = nnx.List(
            [
                EncoderDecoderAttention(
                    dim,
                    config.decoder.num_heads,
                    config.decoder.ffn_dim,
                    activation=config.activation,
                    norm_eps=eps,
                    **factory,
                )
                for _ in range(config.decoder.num_layers)
            ]
        )

    @checked
    def encode(
        self,
        source: Int[Array, "batch source"],
        source_mask: Shaped[Array, "..."] | None = None,
        *,
        need_weights: bool = False,
    ) -> EncoderOutput:
        """Encode `source`; arguments as in the model's call."""
        check_tokens(source)
        check_numbers("source", source, self.config.vocab_size)
        source_mask = token_mask(source_mask, source.shape, name="source_mask")
        check_padding_mask(source_mask, *source.shape)
        table = self.encoder_position_embedding
        x = normalise(self.encoder_embedding_norm, self._embed(source, table, None))  # batch source embed
        layers = []
        for layer in self.encoder_layers:
            layers.append(layer(x, source_mask, need_weights=need_weights))
            x = layers[-1].output  # batch source embed
        return EncoderOutput(x, None, all_weights(layer.weights for layer in layers))

    @checked
    def decode(
        self,
        target: Int[Array, "batch target"],
        memory: Float[Array, "batch source embed"],
        target_mask: Shaped[Array, "..."] | None = None,
        source_mask: Shaped[Array, "..."] | None = None,
        *,
        caches: tuple[Cache, ...] | None = None,
        need_weights: bool = False,
    ) -> SequenceOutput:
        """Compute the logits of the next token; arguments as in `SequenceModel.decode`."""
        stack = self.config.decoder
        target_mask = token_mask(target_mask, target.shape, name="target_mask")
        source_mask = token_mask(source_mask, memory.shape[:2], name="source_mask")
        check_decoding(target, target_mask, caches, stack.num_layers, stack.num_heads)
        check_numbers("target", target, self.config.vocab_size)
        table = self.decoder_position_embedding
        x = normalise(self.decoder_embedding_norm, self._embed(target, table, caches))  # batch target embed
        layers = []
        for layer, cache in zip(self.decoder_layers, caches or (None,) * stack.num_layers, strict=True):
            layers.append(layer(x, memory, target_mask, source_mask, cache=cache, need_weights=need_weights))
            x = layers[-1].output  # batch target embed
        return sequence_output(similarities(self.token_embedding, x), layers)

    def _embed(
        self, tokens: Int[Array, "batch length"], table: nnx.Module, caches: tuple[Cache, ...] | None
    ) -> Float[Array, "batch length embed"]:
        config = self.config
        positions = places(tokens, None, caches, config.max_len) + config.first_position
        return self.token_embedding(tokens) * config.embed_scale + table(positions)  # batch length embed
