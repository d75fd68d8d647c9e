r"""A language model built from its description.

$$ x = e \cdot s_{\mathrm{embed}} + p + t, \qquad x \leftarrow \mathrm{layer}(x), \qquad
   \mathrm{logits} = c \tanh\!\left(s\, (\mathrm{norm}(x)\, W^\top + b) / c\right) $$

A `ModelSpec` describes the layers: Llama, Gemma, DeepSeek and hybrids of attention and recurrent layers are different
descriptions for the same class. Position embeddings p exist only with `max_len` or `embedding_position`, type
embeddings t only with `num_types`, the bias b only with `head_bias`, and the tanh only with `logit_softcap`; s is
`logit_scale`. With `is_causal=False` the model is an encoder, whose hidden states `read` returns.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.arrays import with_rank
from jax_attention.caches import Cache, State
from jax_attention.checks import check_padding_mask, check_pairs, check_tokens
from jax_attention.layers import Factory, constant_parameter, embedding, linear, similarities
from jax_attention.models.arrangements.layer import LayerCall
from jax_attention.models.depth import run_layers
from jax_attention.models.description import ModelSpec
from jax_attention.models.layer_builder import build_layers
from jax_attention.models.mask_tokens import without_mask_tokens
from jax_attention.models.part_builder import build, build_embedding_position, build_position, build_streams
from jax_attention.models.token_masks import token_mask, with_itself
from jax_attention.models.token_mixers import (
    check_memory,
    check_no_padding,
    check_shares_position,
    first_memory,
    fixed_positions,
    is_padded_in_front,
)
from jax_attention.models.token_numbers import check_numbers, check_types
from jax_attention.models.token_positions import has_absolute_positions, places, with_types
from jax_attention.norms import normalise
from jax_attention.outputs import HiddenOutput, LanguageOutput, all_weights
from jax_attention.positions.protocol import check_shape


@checked
class LanguageModel(nnx.Module):
    """Language model, from tokens to next-token logits (Radford et al. 2019).

    Args:
        config: description of the model, layer by layer.
        scan_layers: whether consecutive layers of equal structure share one compiled program, so that compile time
            hardly grows with depth. Parameter names and checkpoints stay the same.
        remat: whether activations inside a layer are recomputed in the backward pass instead of stored.

    Raises:
        ValueError: a part is unknown, does not fit, or is not causal in a causal model.
    """

    def __init__(
        self,
        config: ModelSpec,
        *,
        scan_layers: bool = False,
        remat: bool = False,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        dim, norm = config.embed_dim, {"dim": config.embed_dim}
        self.config = config
        self.scan_layers = scan_layers
        self.remat = remat
        self.token_embedding = embedding(config.vocab_size, config.output_dim, **factory)
        self.embedding_proj = (
            None if config.token_dim is None else linear(config.token_dim, dim, bias=False, **factory)
        )
        self.output_proj = (
            None if config.token_dim is None else linear(dim, config.token_dim, bias=False, **factory)
        )
        self.position_embedding = (
            None
            if config.max_len is None
            else embedding(config.first_position + config.max_len, dim, **factory)
        )
        self.embedding_position: Any = (
            None
            if config.embedding_position is None
            else build_embedding_position(config.embedding_position, dim, {**factory})
        )
        self.layer_embedding: Any = (
            None
            if config.layer_embedding is None
            else build(
                config.layer_embedding, {"embed_dim": dim, "num_layers": len(config.layers)}, {**factory}
            )
        )
        self.streams: Any = build_streams(config.streams, dim, {**factory})
        self.type_embedding = (
            None if config.num_types is None else embedding(config.num_types, dim, **factory)
        )
        self.embedding_norm = (
            None if config.embedding_norm is None else build(config.embedding_norm, norm, {**factory})
        )
        self.position: Any = (
            None if config.position is None else build_position(config.position, dim, {**factory})
        )
        self.layers: Any = nnx.List(build_layers(config, {**factory}))
        if self.position is not None:
            check_shares_position(self.layers)
        self.has_fixed_positions = any(fixed_positions(layer.attention) for layer in self.layers)
        self.final_norm = None if config.norm is None else build(config.norm, norm, {**factory})
        self.head = (
            None if config.tied else linear(config.output_dim, config.vocab_size, bias=False, **factory)
        )
        self.head_bias = (
            constant_parameter(config.vocab_size, value=0.0, **factory) if config.head_bias else None
        )

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        mask: Shaped[Array, "..."] | None = None,
        *,
        token_types: Int[Array, "batch length"] | None = None,
        positions: Int[Array, "..."] | None = None,
        caches: tuple[Cache | State | None, ...] | None = None,
        need_weights: bool = False,
        need_hidden_states: bool = False,
    ) -> LanguageOutput:
        """Compute the logits of the next token at each position.

        Args:
            tokens: token ids, below `vocab_size`; with `caches`, only the new tokens.
            mask: for padded batches, True (or 1) at real tokens, `(batch, length)` or from `padding_mask`; or, without
                recurrent layers, True where a query may attend to a key, `(batch, query, key)`. With `caches`, for the
                new tokens only. None for no mask.
            token_types: token type ids, below the number of types; None for all 0, or for a model without types.
            positions: positions of the tokens, `(length)` or `(batch, length)`; None continues from the cached tokens.
            caches: KV cache or recurrent state of each layer, for incremental decoding; `start()` returns empty ones;
                None without caches.
            need_weights: whether to return the attention weights of every layer.
            need_hidden_states: whether to return the hidden states: the first layer's input and every layer's output.

        Returns:
            Logits `(batch, length, vocab_size)`; the updated caches, or None without caches; a tuple with the attention
            weights of each layer, or None; and a tuple of hidden states, or None.

        Raises:
            TypeError: the mask is neither boolean nor 0/1, or a cache does not fit its layer.
            ValueError: shapes do not match.
            NotImplementedError: caches are given for an encoder or a layer without incremental decoding, or left
                padding for a layer that mixes by fixed positions, such as `ChunkedAttention`.
        """
        read = self.read(
            tokens,
            mask,
            token_types=token_types,
            positions=positions,
            caches=caches,
            need_weights=need_weights,
            need_hidden_states=need_hidden_states,
        )
        return LanguageOutput(self.logits(read.last_hidden_state), *read[1:])

    @checked
    def read(
        self,
        tokens: Int[Array, "batch length"],
        mask: Shaped[Array, "..."] | None = None,
        *,
        token_types: Int[Array, "batch length"] | None = None,
        positions: Int[Array, "..."] | None = None,
        caches: tuple[Cache | State | None, ...] | None = None,
        need_weights: bool = False,
        need_hidden_states: bool = False,
    ) -> HiddenOutput:
        """Compute the last hidden states `(batch, length, embed)`; arguments and errors as in the model's call."""
        check_tokens(tokens)
        check_numbers("tokens", tokens, self.config.vocab_size)
        mask = token_mask(mask, tokens.shape)
        check_shape("positions", positions, tokens)
        check_types(token_types, tokens, self.config.num_types or self.config.relative_types)
        if self.has_fixed_positions and is_padded_in_front(mask):
            check_no_padding(self.layers)
        if caches is None:
            check_pairs(tokens, tokens, mask, num_heads=self._num_heads)
        else:
            self._check_decoding()
            if len(caches) != len(self.layers):
                raise ValueError(
                    f"caches must be one for each of {len(self.layers)} layers, got {len(caches)}"
                )
            for layer, memory in zip(self.layers, caches, strict=True):
                check_memory(layer.attention, memory)
            check_padding_mask(mask, *tokens.shape)

        x = self.embed(tokens, positions, caches, token_types, mask)  # batch length embed
        call: LayerCall = {
            "positions": with_types(tokens, positions, token_types, self.config.relative_types),
            "position": self.position,
            "memory": None,
            "reads_on": caches is not None,
            "need_weights": need_weights,
        }
        inputs = None if self.layer_embedding is None else self.layer_embedding(tokens, x)
        x = (
            x if self.streams is None else self.streams(x)
        )  # batch length embed, or batch length streams embed
        read = run_layers(
            self.layers,
            x,
            with_itself(mask) if self.config.sees_itself and caches is None else mask,
            caches or (None,) * len(self.layers),
            call,
            inputs=inputs,
            scan_layers=self.scan_layers,
            remat=self.remat,
        )
        last = read[-1].output  # batch length embed
        last = last if self.streams is None else self.streams.join(last)
        last = last if self.final_norm is None else normalise(self.final_norm, last)
        return HiddenOutput(
            last if self.output_proj is None else self.output_proj(last),
            None if caches is None else tuple(each.cache for each in read),
            all_weights(each.weights for each in read),
            (x, *(each.output for each in read)) if need_hidden_states else None,
        )

    @checked
    def embed(
        self,
        tokens: Int[Array, "batch length"],
        positions: Int[Array, "..."] | None = None,
        caches: tuple[Cache | State | None, ...] | None = None,
        token_types: Int[Array, "batch length"] | None = None,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Float[Array, "batch length embed"]:
        """Compute the input of the first layer."""
        x = self.token_embedding(tokens) * self.config.embed_scale  # batch length token_dim
        if self.config.mask_token is not None:
            x = without_mask_tokens(x, tokens, mask, self.config.mask_token)
        if self.embedding_proj is not None:
            x = self.embedding_proj(x)  # batch length embed
        norm, last = self.embedding_norm, self.config.positions_last
        x = normalise(norm, x) if last and norm is not None else x  # batch length embed
        if has_absolute_positions(self.config):
            where = places(tokens, positions, caches, self.config.max_len)  # length, or batch length
            where = where + self.config.first_position
            if self.position_embedding is not None:
                x = x + with_rank(self.position_embedding(where), x.ndim)  # batch length embed
            if self.embedding_position is not None:
                x = self.embedding_position(x, where)  # batch length embed
        if self.type_embedding is not None:
            x = x + self.type_embedding(jnp.zeros_like(tokens) if token_types is None else token_types)
        return x if last or norm is None else normalise(norm, x)

    @checked
    def logits(self, x: Float[Array, "*batch embed"]) -> Float[Array, "*batch vocab"]:
        """Logits of the next token, from hidden states `x`."""
        scores = similarities(self.token_embedding, x) if self.head is None else self.head(x)
        if self.head_bias is not None:
            scores = scores + self.head_bias[...].astype(scores.dtype)
        if self.config.logit_scale != 1.0:
            scores = scores * self.config.logit_scale
        return bounded(scores, self.config.logit_softcap)

    @checked
    def start(self, capacity: int | None = None) -> tuple[Any, ...]:
        """Empty KV caches for incremental decoding; None for recurrent layers, whose first call returns a state.

        Args:
            capacity: number of tokens that the caches hold; None for caches that grow. Compiled code (`jax.jit`,
                `torch.compile`) cannot raise an error for more tokens: they overwrite the last slots.

        Raises:
            NotImplementedError: the model is an encoder, or a layer has no incremental decoding.
        """
        self._check_decoding()
        return tuple(first_memory(layer.attention, capacity) for layer in self.layers)

    def _check_decoding(self) -> None:
        if not self.config.is_causal:
            raise NotImplementedError(
                "a model with is_causal=False has no incremental decoding: its positions see later tokens"
            )

    @property
    def _num_heads(self) -> int | None:
        """Number of attention heads; None unless all layers have the same number."""
        (heads, *others) = {getattr(layer.attention, "num_heads", None) for layer in self.layers}
        return None if others else heads


@checked
def bounded(logits: Float[Array, "*batch vocab"], softcap: float | None) -> Float[Array, "*batch vocab"]:
    """Return c tanh(logits / c), bounded by the softcap c, or `logits` if `softcap` is None (Gemma 2, 2024)."""
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)
