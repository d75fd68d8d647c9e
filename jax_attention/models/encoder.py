"""A bidirectional Transformer encoder (Vaswani et al. 2017) with the layout of BERT (Devlin et al. 2018).

Token, position and type embeddings are added and normalised. Each layer is self-attention and a feed-forward
network, each followed by a residual addition and a normalisation. An optional pooler reads the first position. Instead
of position embeddings, or besides them, the layers may share a positional encoding: a `T5Bias` in MPNet (Song et al.
2020), a `RotaryEmbedding` in RoFormer (Su et al. 2021).
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.arrays import with_rank
from jax_attention.checks import check_pairs, check_tokens
from jax_attention.dropout_masks import LayerKeep, ModelKeep
from jax_attention.feed_forward import FeedForward, GatedFeedForward
from jax_attention.layers import Dropout, Factory, embedding, linear
from jax_attention.models.description import Part
from jax_attention.models.part_builder import build_position
from jax_attention.models.token_masks import token_mask
from jax_attention.models.token_numbers import check_numbers, check_types
from jax_attention.models.token_positions import places
from jax_attention.norms import layer_norm, normalise
from jax_attention.ops.arrays import known_above
from jax_attention.outputs import AttentionOutput, EncoderOutput
from jax_attention.positions.protocol import check_shape
from jax_attention.self_attention import MultiHeadSelfAttention


@checked
@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder.

    Attributes:
        vocab_size: number of tokens in the vocabulary.
        embed_dim: number of features per position.
        num_heads: number of attention heads per layer; must divide `embed_dim`.
        num_layers: number of layers.
        ffn_dim: hidden features of the feed-forward network.
        max_len: number of positions with an embedding, the longest sequence; None for no position embeddings.
        num_types: number of token types (sentence A, sentence B); 0 for none (DistilBERT).
        activation: activation of the feed-forward network: `"relu"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"` or
            `"silu"`.
        norm_eps: epsilon added to the variance in each normalisation.
        dropout: dropout rate of attention weights, embeddings and sublayer outputs in training.
        pooler: whether the model has a pooler: a linear layer and tanh on the first position.
        first_position: index of the first token's row in the position embedding; 2 in RoBERTa.
        uncounted_token: token that positions do not count, which is the padding token of RoBERTa; None counts all
            tokens.
        position: positional encoding that all layers share, such as `T5Bias`; None for none.
        gated: whether the feed-forward network has a gate.
        bias: whether the projections of attention and feed-forward network have biases.
        num_tasks: number of rows of the task embedding, whose first row is added to each token (ERNIE); None for none.
        token_dim: features of the embeddings, which a linear layer projects to `embed_dim` (ALBERT); None for
            embeddings of `embed_dim` features without a projection.
        shared_layers: whether one layer runs `num_layers` times (ALBERT).
    """

    vocab_size: int
    embed_dim: int
    num_heads: int
    num_layers: int
    ffn_dim: int
    max_len: int | None
    num_types: int = 2
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.0
    pooler: bool = True
    first_position: int = 0
    token_dim: int | None = None
    shared_layers: bool = False
    uncounted_token: int | None = None
    position: Part | None = None
    gated: bool = False
    bias: bool = True
    num_tasks: int | None = None


@checked
class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward network, each as x = norm(x + f(x)) (Vaswani et al. 2017).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, the activation is unknown, or the dropout rate is
            outside [0, 1).
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        dim, eps, bias = config.embed_dim, config.norm_eps, config.bias
        feed_forward = GatedFeedForward if config.gated else FeedForward
        self.attention = MultiHeadSelfAttention(
            dim, config.num_heads, bias=bias, dropout=config.dropout, **factory
        )
        self.attention_norm = layer_norm(dim, eps=eps, **factory)
        self.ffn = feed_forward(dim, config.ffn_dim, activation=config.activation, bias=bias, **factory)
        self.ffn_norm = layer_norm(dim, eps=eps, **factory)
        self.dropout = Dropout(config.dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        position: Any = None,
        positions: Int[Array, "..."] | None = None,
        need_weights: bool = True,
        dropout_keep: LayerKeep | None = None,
    ) -> AttentionOutput:
        """Run one layer; arguments, result and errors as in `MultiHeadSelfAttention`."""
        keep = dropout_keep or LayerKeep()
        attended, weights = self.attention(
            x,
            mask,
            position=position,
            positions=None if position is None else positions,
            need_weights=need_weights,
            dropout_keep=keep.weights,
        )
        x = normalise(
            self.attention_norm, x + self.dropout(attended, keep.attention_output)
        )  # batch length embed
        x = normalise(self.ffn_norm, x + self.dropout(self.ffn(x), keep.ffn_output))  # batch length embed
        return AttentionOutput(x, weights)


@checked
class Encoder(nnx.Module):
    """Bidirectional Transformer encoder, from tokens to one vector per token (Devlin et al. 2018).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, the activation is unknown, or the dropout rate is
            outside [0, 1).
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        dim, own_layers = config.embed_dim, 1 if config.shared_layers else config.num_layers
        token_dim = dim if config.token_dim is None else config.token_dim
        self.config = config
        self.token_embedding = embedding(config.vocab_size, token_dim, **factory)
        rows = None if config.max_len is None else config.first_position + config.max_len
        self.position_embedding = None if rows is None else embedding(rows, token_dim, **factory)
        self.type_embedding = embedding(config.num_types, token_dim, **factory) if config.num_types else None
        self.task_embedding = embedding(config.num_tasks, token_dim, **factory) if config.num_tasks else None
        self.embedding_norm = layer_norm(token_dim, eps=config.norm_eps, **factory)
        self.embedding_proj = None if config.token_dim is None else linear(token_dim, dim, **factory)
        self.layers = nnx.List([EncoderLayer(config, **factory) for _ in range(own_layers)])
        self.position: Any = (
            None if config.position is None else build_position(config.position, dim, {**factory})
        )
        self.pooler = linear(dim, dim, **factory) if config.pooler else None
        self.dropout = Dropout(config.dropout, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        mask: Shaped[Array, "..."] | None = None,
        token_types: Int[Array, "batch length"] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        need_weights: bool = False,
        need_hidden_states: bool = False,
        dropout_keep: ModelKeep | None = None,
    ) -> EncoderOutput:
        """Encode a batch of sequences.

        Args:
            tokens: token ids, below `vocab_size`.
            mask: boolean mask, True where a query may attend to a key; `padding_mask(tokens, pad_id)` for padded
                batches; None for no mask.
            token_types: token type ids, below `num_types`; None for all 0, or for a model without types.
            positions: positions of the tokens, `(length)` or `(batch, length)`; None for 0, 1, 2, and so on.
            need_weights: whether to return the attention weights of every layer.
            need_hidden_states: whether to return the hidden states: the first layer's input and every layer's output.
            dropout_keep: boolean dropout masks, True keeps; used instead of sampling them.

        Returns:
            Output `(batch, length, embed)`; the pooled first position `(batch, embed)`, or None without a pooler; a
            tuple with the attention weights `(batch, heads, length, length)` of each layer, or None; and a tuple of
            hidden states, or None.

        Raises:
            TypeError: the mask is neither boolean nor 0/1.
            ValueError: shapes do not match, or there are more tokens than position embeddings.
        """
        check_tokens(tokens)
        check_numbers("tokens", tokens, self.config.vocab_size)
        mask = token_mask(mask, tokens.shape)
        check_types(token_types, tokens, self.config.num_types)
        check_shape("positions", positions, tokens)
        length, max_len = tokens.shape[1], self.config.max_len
        if max_len is not None and known_above(length, max_len):
            raise ValueError(f"tokens must have at most max_len={max_len} positions, got {length}")
        check_pairs(tokens, tokens, mask, num_heads=self.config.num_heads)
        keep = dropout_keep or ModelKeep()
        x = self._embed(tokens, token_types, positions)  # batch length token_dim
        x = self.dropout(normalise(self.embedding_norm, x), keep.embeddings)  # batch length token_dim
        x = x if self.embedding_proj is None else self.embedding_proj(x)  # batch length embed
        layers = list(self.layers) * (self.config.num_layers // len(self.layers))
        all_weights, states = [], [x]
        for layer, layer_keep in zip(layers, keep.layers or (None,) * len(layers), strict=True):
            x, weights = layer(
                x,
                mask,
                position=self.position,
                positions=positions,
                need_weights=need_weights,
                dropout_keep=layer_keep,
            )  # batch length embed
            states.append(x)
            if weights is not None:
                all_weights.append(weights)
        pooled = None if self.pooler is None else jnp.tanh(self.pooler(x[:, :1].sum(axis=1)))  # batch embed
        return EncoderOutput(
            x,
            pooled,
            tuple(all_weights) if need_weights else None,
            tuple(states) if need_hidden_states else None,
        )

    def _embed(
        self,
        tokens: Int[Array, "batch length"],
        token_types: Int[Array, "batch length"] | None,
        positions: Int[Array, "..."] | None,
    ) -> Float[Array, "batch length token_dim"]:
        x = self.token_embedding(tokens)  # batch length token_dim
        if self.type_embedding is not None:
            types = jnp.zeros_like(tokens) if token_types is None else token_types
            x = x + self.type_embedding(types)  # batch length token_dim
        if self.task_embedding is not None:
            x = x + self.task_embedding(jnp.zeros_like(tokens))  # batch length token_dim
        if self.position_embedding is None:
            return x
        return x + with_rank(
            self.position_embedding(self._rows(tokens, positions)), 3
        )  # batch length token_dim

    def _rows(
        self, tokens: Int[Array, "batch length"], positions: Int[Array, "..."] | None
    ) -> Int[Array, "..."]:
        """Rows of the position embedding; an uncounted token has the row before the first one."""
        first, uncounted = self.config.first_position, self.config.uncounted_token
        if positions is None and uncounted is not None:
            real = tokens != uncounted  # batch length
            return jnp.where(real, real.cumsum(-1), 0) + (first - 1)  # batch length
        return places(tokens, positions, None, self.config.max_len) + first
