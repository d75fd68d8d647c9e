r"""An encoder-decoder with the layout of BART (Lewis et al. 2019): the Transformer of Vaswani et al. 2017.

$$ m = \mathrm{encode}(s), \qquad
   \mathrm{logits} = \mathrm{decode}(t, m)\, E^\top $$

The encoder is an `Encoder` without token types; the decoder layers are `EncoderDecoderAttention`. Both share one token
embedding E, which is also the output head (tied embeddings). The layers may be pre-norm, as in mBART, with a final norm
after each stack; positions are learned or sinusoidal.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.arrays import with_rank
from jax_attention.caches import Cache
from jax_attention.checks import check_padding_mask, check_tokens
from jax_attention.cross_attention import EncoderDecoderAttention
from jax_attention.layers import Factory, constant_parameter, embedding, similarities
from jax_attention.models.description import Part
from jax_attention.models.encoder_layer import EncoderConfig, EncoderLayer
from jax_attention.models.part_builder import build_embedding_position
from jax_attention.models.sequence import SequenceModel, check_decoding, sequence_output
from jax_attention.models.special_tokens import SpecialTokens
from jax_attention.models.token_masks import token_mask
from jax_attention.models.token_numbers import check_numbers
from jax_attention.models.token_positions import places
from jax_attention.norms import layer_norm, normalise
from jax_attention.outputs import EncoderOutput, SequenceOutput, all_weights
from jax_attention.vision.vit import ViTBlock


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
        max_len: number of learned position embeddings, the longest sequence; None for no learned positions.
        first_position: position of the first token; 2 in BART.
        activation: activation of the feed-forward networks, as in `FeedForward`.
        norm_eps: epsilon added to the variance in each normalisation.
        embed_scale: factor on the token embeddings.
        norm_first: whether the layers are pre-norm, with a final norm after each stack (mBART); False for post-norm.
        embedding_norm: whether the embeddings are normalised before the first layer.
        decoder_positions_last: whether the decoder normalises its token embeddings without `embed_scale`, and adds
            positions afterwards (BlenderBot-small).
        embedding_position: positional embedding that is added to the token embeddings, `SinusoidalEmbedding`; None for
            none.
        uncounted_token: token without a position, which positions do not count: the padding token of M2M-100; None
            counts all tokens.
        head_bias: whether the logits have a bias (Marian).
        special_tokens: end, padding and start tokens, the defaults of `generate`.
    """

    vocab_size: int
    embed_dim: int
    encoder: StackConfig
    decoder: StackConfig
    max_len: int | None = None
    first_position: int = 0
    activation: str = "gelu"
    norm_eps: float = 1e-5
    embed_scale: float = 1.0
    norm_first: bool = False
    embedding_norm: bool = True
    decoder_positions_last: bool = False
    embedding_position: Part | None = None
    uncounted_token: int | None = None
    head_bias: bool = False
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
        dim, eps, activation = config.embed_dim, config.norm_eps, config.activation
        reading, writing = config.encoder, config.decoder
        norm = partial(layer_norm, dim, eps=eps, **factory)
        self.config = config
        self.token_embedding = embedding(config.vocab_size, dim, **factory)
        self.embedding_position: Any = (
            None
            if config.embedding_position is None
            else build_embedding_position(config.embedding_position, dim, {**factory})
        )
        self.encoder_position_embedding = self._positions(factory)
        self.encoder_embedding_norm = norm() if config.embedding_norm else None
        self.encoder_layers = nnx.List([encoder_layer(config, factory) for _ in range(reading.num_layers)])
        self.encoder_norm = norm() if config.norm_first else None
        self.decoder_position_embedding = self._positions(factory)
        self.decoder_embedding_norm = norm() if config.embedding_norm else None
        self.decoder_layers = nnx.List(
            [
                EncoderDecoderAttention(
                    dim,
                    writing.num_heads,
                    writing.ffn_dim,
                    norm_first=config.norm_first,
                    activation=activation,
                    norm_eps=eps,
                    **factory,
                )
                for _ in range(writing.num_layers)
            ]
        )
        self.decoder_norm = norm() if config.norm_first else None
        self.head_bias = (
            constant_parameter(config.vocab_size, value=0.0, **factory) if config.head_bias else None
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
        x = self._embed(
            source, self.encoder_embedding_norm, self.encoder_position_embedding
        )  # batch source embed
        layers = []
        for layer in self.encoder_layers:
            layers.append(layer(x, source_mask, need_weights=need_weights))
            x = layers[-1].output  # batch source embed
        return EncoderOutput(
            optional_norm(self.encoder_norm, x), None, all_weights(layer.weights for layer in layers)
        )

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
        norm, table = self.decoder_embedding_norm, self.decoder_position_embedding
        last = self.config.decoder_positions_last
        x = self._embed(target, norm, table, caches, positions_last=last)  # batch target embed
        layers = []
        for layer, cache in zip(self.decoder_layers, caches or (None,) * stack.num_layers, strict=True):
            layers.append(layer(x, memory, target_mask, source_mask, cache=cache, need_weights=need_weights))
            x = layers[-1].output  # batch target embed
        logits = similarities(self.token_embedding, optional_norm(self.decoder_norm, x))  # batch target vocab
        if self.head_bias is not None:
            logits = logits + self.head_bias[...].astype(logits.dtype)
        return sequence_output(logits, layers)

    def _positions(self, factory: Factory) -> Any:
        config = self.config
        if config.max_len is None:
            return None
        return embedding(config.max_len + config.first_position, config.embed_dim, **factory)

    def _embed(
        self,
        tokens: Int[Array, "batch length"],
        norm: Any,
        table: Any,
        caches: tuple[Cache, ...] | None = None,
        *,
        positions_last: bool = False,
    ) -> Float[Array, "batch length embed"]:
        """Embed tokens with their positions, and normalise."""
        x = self.token_embedding(tokens)  # batch length embed
        if positions_last:
            return self._place(tokens, optional_norm(norm, x), table, caches)
        return optional_norm(norm, self._place(tokens, x * self.config.embed_scale, table, caches))

    def _place(
        self,
        tokens: Int[Array, "batch length"],
        x: Float[Array, "batch length embed"],
        table: Any,
        caches: tuple[Cache, ...] | None,
    ) -> Float[Array, "batch length embed"]:
        """Add the positions of the tokens to `x`."""
        config, uncounted = self.config, self.config.uncounted_token
        real = None if uncounted is None else tokens != uncounted  # batch length
        where = places(tokens, None, caches, config.max_len)  # length
        if real is not None:
            where = where[:1] + jnp.where(real, real.cumsum(-1) - 1, 0)  # batch length
        placed, where = x, where + config.first_position
        if table is not None:
            placed = placed + with_rank(table(where), 3)  # batch length embed
        if self.embedding_position is not None:
            placed = self.embedding_position(placed, where)  # batch length embed
        return placed if real is None else jnp.where(real[..., None], placed, x)


def encoder_layer(config: EncoderDecoderConfig, factory: Factory) -> EncoderLayer | ViTBlock:
    """Build a layer of the encoder, pre-norm or post-norm."""
    dim, stack, eps = config.embed_dim, config.encoder, config.norm_eps
    if config.norm_first:
        return ViTBlock(
            dim, stack.num_heads, stack.ffn_dim, activation=config.activation, norm_eps=eps, **factory
        )
    sizes = EncoderConfig(
        config.vocab_size,
        dim,
        stack.num_heads,
        stack.num_layers,
        stack.ffn_dim,
        max_len=1,
        activation=config.activation,
        norm_eps=eps,
    )
    return EncoderLayer(sizes, **factory)


def optional_norm(norm: Any, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
    """Normalise `x` with a norm that may be None."""
    return x if norm is None else normalise(norm, x)
