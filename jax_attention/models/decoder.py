r"""A Transformer decoder that stands alone, laid out as GPT-2 is (Radford et al. 2019).

$$ x = e_{\mathrm{token}} + e_{\mathrm{position}}, \qquad
   x \leftarrow x + f(\mathrm{norm}(x)) \;\text{for}\; f = \mathrm{causal\ self}, \mathrm{ffn}, \qquad
   \mathrm{logits} = \mathrm{norm}(x)\, E^\top $$

Two things tell it from an `Encoder`: no position sees what comes after it, and what reads tokens, E, also writes
them, so that each position says which token it expects next. With `caches` it reads on from where it stopped.

| symbol                  | argument                                |
|-------------------------|-----------------------------------------|
| $e_{\mathrm{token}}$    | `token_embedding`, of `tokens`          |
| $e_{\mathrm{position}}$ | `position_embedding`, of `positions`    |
| E                       | the table of `token_embedding`          |
| norm                    | `layer_norm` with an eps of `norm_eps`  |
"""

from dataclasses import dataclass, field

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.arrays import with_rank
from jax_attention.caches import Cache, GrowingCache, StaticCache
from jax_attention.checks import check_padding_mask, check_pairs, check_tokens
from jax_attention.dropout_masks import LayerKeep, ModelKeep
from jax_attention.feed_forward import FeedForward
from jax_attention.layers import Dropout, Factory, embedding, layer_norm, normalise, similarities
from jax_attention.models.places import places
from jax_attention.models.special_tokens import SpecialTokens
from jax_attention.models.token_masks import token_mask
from jax_attention.models.token_numbers import check_numbers
from jax_attention.outputs import AttentionOutput, CachedOutput, HiddenOutput, LanguageOutput
from jax_attention.self_attention import CausalSelfAttention


@checked
@dataclass(frozen=True)
class DecoderConfig:
    """The sizes of a decoder.

    Attributes:
        vocab_size: number of tokens.
        embed_dim: features of a position.
        num_heads: heads of each layer; must divide `embed_dim`.
        num_layers: number of layers.
        ffn_dim: features inside the feed-forward network.
        max_len: number of positions that have an embedding.
        activation: of the feed-forward network: `"relu"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"` or `"silu"`.
        norm_eps: added to the variance in each normalisation.
        dropout: rate at which weights, embeddings and the result of each sublayer are dropped in training.
        special_tokens: end, padding and first tokens, which `generate` takes from here.
    """

    vocab_size: int
    embed_dim: int
    num_heads: int
    num_layers: int
    ffn_dim: int
    max_len: int
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-5
    dropout: float = 0.0
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)


@checked
class DecoderLayer(nnx.Module):
    """Causal self-attention, then feed-forward: x = x + f(norm(x)) each (Radford et al. 2019).

    Args:
        config: the sizes.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, an unknown activation, or a rate outside [0, 1).
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        dim, eps = config.embed_dim, config.norm_eps
        self.attention_norm = layer_norm(dim, eps=eps, **factory)
        self.attention = CausalSelfAttention(dim, config.num_heads, dropout=config.dropout, **factory)
        self.ffn_norm = layer_norm(dim, eps=eps, **factory)
        self.ffn = FeedForward(dim, config.ffn_dim, activation=config.activation, **factory)
        self.dropout = Dropout(config.dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        cache: Cache | None = None,
        need_weights: bool = True,
        dropout_keep: LayerKeep | None = None,
    ) -> AttentionOutput | CachedOutput:
        """Decode one layer; arguments, result and errors as in `CausalSelfAttention`."""
        keep = dropout_keep or LayerKeep()
        attended = self.attention(
            normalise(self.attention_norm, x),
            mask,
            cache=cache,
            need_weights=need_weights,
            dropout_keep=keep.weights,
        )
        x = x + self.dropout(attended.output, keep.attention_output)  # batch length embed
        x = x + self.dropout(self.ffn(normalise(self.ffn_norm, x)), keep.ffn_output)  # batch length embed
        return attended._replace(output=x)


@checked
class Decoder(nnx.Module):
    """Tokens in, for each of them a score of every token as the next one out (Radford et al. 2019).

    Args:
        config: the sizes.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, an unknown activation, or a rate outside [0, 1).
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.config = config
        self.token_embedding = embedding(config.vocab_size, config.embed_dim, **factory)
        self.position_embedding = embedding(config.max_len, config.embed_dim, **factory)
        self.layers = nnx.List([DecoderLayer(config, **factory) for _ in range(config.num_layers)])
        self.final_norm = layer_norm(config.embed_dim, eps=config.norm_eps, **factory)
        self.dropout = Dropout(config.dropout, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        mask: Shaped[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        caches: tuple[Cache, ...] | None = None,
        need_weights: bool = False,
        need_hidden_states: bool = False,
        dropout_keep: ModelKeep | None = None,
    ) -> LanguageOutput:
        """Score every token of the vocabulary as the one that comes next, behind each of the tokens.

        Args:
            tokens: token numbers, below `vocab_size`; with `caches` those that are new.
            mask: True where the query attends to the key, it can only hide more; `padding_mask(tokens, pad_id)`
                for padded batches; with `caches` `(batch, 1, 1, new)`.
            positions: positions of the tokens, `(length)` or `(batch, length)`; None counts on from those read before.
            caches: KV cache of each layer, for incremental decoding; `start()` makes empty ones.
            need_weights: whether to return the weights of every layer.
            need_hidden_states: whether to return what each layer was given, and what the last one returned.
            dropout_keep: boolean dropout masks, True keeps; used instead of sampling them.

        Returns:
            Logits `(batch, length, vocab_size)`, the caches to go on from, or None without any, a tuple of weights,
            one a layer, or None, and a tuple of hidden states, or None.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit, or a position that has no embedding.
        """
        read = self.read(
            tokens,
            mask,
            positions=positions,
            caches=caches,
            need_weights=need_weights,
            need_hidden_states=need_hidden_states,
            dropout_keep=dropout_keep,
        )
        return LanguageOutput(self.logits(read.last_hidden_state), *read[1:])

    @checked
    def read(
        self,
        tokens: Int[Array, "batch length"],
        mask: Shaped[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        caches: tuple[Cache, ...] | None = None,
        need_weights: bool = False,
        need_hidden_states: bool = False,
        dropout_keep: ModelKeep | None = None,
    ) -> HiddenOutput:
        """The vectors `(batch, length, embed)` that `logits` scores; everything else as in a call of the decoder."""
        check_tokens(tokens)
        check_numbers("tokens", tokens, self.config.vocab_size)
        mask = token_mask(mask, tokens.shape)
        if caches is None:
            check_pairs(tokens, tokens, mask, num_heads=self.config.num_heads)
        else:
            if len(caches) != len(self.layers):
                raise ValueError(
                    f"caches must be one for each of {len(self.layers)} layers, got {len(caches)}"
                )
            check_padding_mask(mask, *tokens.shape)
        positions = places(tokens, positions, caches, self.config.max_len)  # length, or batch length
        keep = dropout_keep or ModelKeep()
        layer_keeps = keep.layers or (None,) * len(self.layers)

        x = self.token_embedding(tokens) + with_rank(
            self.position_embedding(positions), 3
        )  # batch length embed
        x = self.dropout(x, keep.embeddings)  # batch length embed
        layers: list[AttentionOutput | CachedOutput] = []
        states = [x]
        for layer, cache, layer_keep in zip(
            self.layers, caches or (None,) * len(self.layers), layer_keeps, strict=True
        ):
            layers.append(layer(x, mask, cache=cache, need_weights=need_weights, dropout_keep=layer_keep))
            x = layers[-1].output  # batch length embed
            states.append(x)
        return HiddenOutput(
            normalise(self.final_norm, x),
            tuple(layer.cache for layer in layers if isinstance(layer, CachedOutput)) or None,
            tuple(layer.weights for layer in layers if layer.weights is not None) or None,
            tuple(states) if need_hidden_states else None,
        )

    @checked
    def logits(self, x: Float[Array, "*batch embed"]) -> Float[Array, "*batch vocab"]:
        """The score of each token as the next one behind what `x` stands for."""
        return similarities(self.token_embedding, x)

    @checked
    def start(self, capacity: int | None = None) -> tuple[Cache, ...]:
        """Empty KV caches for incremental decoding.

        Args:
            capacity: number of tokens that the caches have room for; None for caches that grow. Compiled code
                (`jax.jit`, `torch.compile`) cannot refuse more tokens: these overwrite the last slots without an error.
        """
        cache: Cache = GrowingCache() if capacity is None else StaticCache(capacity)
        return (cache,) * len(self.layers)


def main() -> None:
    """Show what a decoder expects behind each token of a text, read at once and read on."""
    from jax_attention.demonstration import fill

    config = DecoderConfig(vocab_size=6, embed_dim=8, num_heads=2, num_layers=1, ffn_dim=8, max_len=4)
    decoder = fill(Decoder(config, rngs=nnx.Rngs(0)))
    tokens = jnp.asarray([[1, 2, 3]])
    print("Decoder: the score of each token as the next one")
    for token, scores in zip(tokens[0].tolist(), decoder(tokens).output[0].tolist(), strict=True):
        print(f"behind {token}:", " ".join(f"{score:.3f}" for score in scores))
    caches = decoder(tokens[:, :2], caches=decoder.start()).caches
    read_on = decoder(tokens[:, 2:], caches=caches).output[0, 0].tolist()
    print("read on, behind 3:", " ".join(f"{score:.3f}" for score in read_on))


if __name__ == "__main__":
    main()
