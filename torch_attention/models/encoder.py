"""A bidirectional Transformer encoder (Vaswani et al. 2017) with the layout of BERT (Devlin et al. 2018).

Token, position and type embeddings are added and normalised. Each layer is self-attention and a feed-forward
network, each followed by a residual addition and a normalisation. An optional pooler reads the first position. Instead
of position embeddings, or besides them, the layers may share a positional encoding: a `T5Bias` in MPNet (Song et al.
2020), a `RotaryEmbedding` in RoFormer (Su et al. 2021). With boxes, embeddings of each token's place on a page are
added (LayoutLM: Xu et al. 2019).
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.arrays import with_rank
from torch_attention.checks import check_pairs, check_tokens
from torch_attention.dropout_masks import ModelKeep
from torch_attention.layers import Dropout, Factory, embedding, linear
from torch_attention.models.box_embedding import BoxEmbedding
from torch_attention.models.encoder_layer import EncoderConfig, EncoderLayer
from torch_attention.models.part_builder import build_position
from torch_attention.models.token_masks import token_mask
from torch_attention.models.token_mixers import check_shares_position
from torch_attention.models.token_numbers import check_numbers, check_types
from torch_attention.models.token_positions import places
from torch_attention.norms import layer_norm, normalise
from torch_attention.ops.arrays import known_above
from torch_attention.outputs import EncoderOutput
from torch_attention.positions.protocol import check_shape


@checked
class Encoder(nn.Module):
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        dim, own_layers = config.embed_dim, 1 if config.shared_layers else config.num_layers
        token_dim = dim if config.token_dim is None else config.token_dim
        self.config = config
        self.token_embedding = embedding(config.vocab_size, token_dim, **factory)
        rows = None if config.max_len is None else config.first_position + config.max_len
        self.position_embedding = None if rows is None else embedding(rows, token_dim, **factory)
        self.type_embedding = embedding(config.num_types, token_dim, **factory) if config.num_types else None
        self.task_embedding = embedding(config.num_tasks, token_dim, **factory) if config.num_tasks else None
        self.box_embedding = (
            None
            if config.num_coordinates is None
            else BoxEmbedding(config.num_coordinates, token_dim, **factory)
        )
        self.embedding_norm = (
            None if config.norm_first else layer_norm(token_dim, eps=config.norm_eps, **factory)
        )
        self.embedding_proj = None if config.token_dim is None else linear(token_dim, dim, **factory)
        self.layers: Any = nn.ModuleList([EncoderLayer(config, **factory) for _ in range(own_layers)])
        self.final_norm = layer_norm(dim, eps=config.norm_eps, **factory) if config.norm_first else None
        self.position: Any = (
            None if config.position is None else build_position(config.position, dim, {**factory})
        )
        if config.position is not None:
            check_shares_position(self.layers)
        self.pooler = linear(dim, dim, **factory) if config.pooler else None
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        mask: Shaped[Tensor, "..."] | None = None,
        token_types: Int[Tensor, "batch length"] | None = None,
        *,
        positions: Int[Tensor, "..."] | None = None,
        boxes: Int[Tensor, "..."] | None = None,
        global_tokens: Bool[Tensor, "batch length"] | None = None,
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
            boxes: left, top, right and bottom coordinate of each token on a page, below `num_coordinates`,
                `(batch, length, 4)`; None for all 0, or for a model without boxes.
            global_tokens: boolean mask, True where a token is global, for attention with global tokens; None for none,
                or with `global_first` for the first one.
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
        for name in ("max_tokens", "max_len"):
            most, length = getattr(self.config, name), tokens.shape[1]
            if most is not None and known_above(length, most):
                raise ValueError(f"tokens must have at most {name}={most} positions, got {length}")
        check_pairs(tokens, tokens, mask, num_heads=self.config.num_heads)
        keep = dropout_keep or ModelKeep()
        global_tokens = self._global_tokens(tokens, global_tokens)
        x = self._embed(tokens, token_types, positions)  # batch length token_dim
        if self.box_embedding is not None:
            x = x + self.box_embedding(boxes, tokens)  # batch length token_dim
        elif boxes is not None:
            raise ValueError("boxes must be None for a model with num_coordinates=None")
        x = x if self.embedding_norm is None else normalise(self.embedding_norm, x)  # batch length token_dim
        x = self.dropout(x, keep.embeddings)  # batch length token_dim
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
                global_tokens=global_tokens,
            )  # batch length embed
            states.append(x)
            if weights is not None:
                all_weights.append(weights)
        x = x if self.final_norm is None else normalise(self.final_norm, x)  # batch length embed
        pooled = None if self.pooler is None else torch.tanh(self.pooler(x[:, :1].sum(dim=1)))  # batch embed
        return EncoderOutput(
            x,
            pooled,
            tuple(all_weights) if need_weights else None,
            tuple(states) if need_hidden_states else None,
        )

    def _embed(
        self,
        tokens: Int[Tensor, "batch length"],
        token_types: Int[Tensor, "batch length"] | None,
        positions: Int[Tensor, "..."] | None,
    ) -> Float[Tensor, "batch length token_dim"]:
        x = self.token_embedding(tokens)  # batch length token_dim
        if self.type_embedding is not None:
            types = torch.zeros_like(tokens) if token_types is None else token_types
            x = x + self.type_embedding(types)  # batch length token_dim
        if self.task_embedding is not None:
            x = x + self.task_embedding(torch.zeros_like(tokens))  # batch length token_dim
        if self.position_embedding is None:
            return x
        return x + with_rank(
            self.position_embedding(self._rows(tokens, positions)), 3
        )  # batch length token_dim

    def _rows(
        self, tokens: Int[Tensor, "batch length"], positions: Int[Tensor, "..."] | None
    ) -> Int[Tensor, "..."]:
        """Rows of the position embedding; an uncounted token has the row before the first one."""
        first, uncounted = self.config.first_position, self.config.uncounted_token
        if positions is None and uncounted is not None:
            real = tokens != uncounted  # batch length
            return torch.where(real, real.cumsum(-1), 0) + (first - 1)  # batch length
        return places(tokens, positions, None, self.config.max_len) + first

    def _global_tokens(
        self, tokens: Int[Tensor, "batch length"], given: Bool[Tensor, "batch length"] | None
    ) -> Bool[Tensor, "batch length"] | None:
        """The global tokens of a call; None for attention without them."""
        if "global_tokens" in self.layers[0].takes:
            first = torch.broadcast_to(torch.arange(tokens.shape[1], device=tokens.device) == 0, tokens.shape)
            return first if given is None and self.config.global_first else given
        if given is not None:
            raise ValueError("global_tokens must be None for attention without global tokens")
        return None
