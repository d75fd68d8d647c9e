r"""A decoder-only Transformer with the layout of GPT-2 (Radford et al. 2019).

$$ x = e_{\mathrm{token}} + e_{\mathrm{position}}, \qquad
   x \leftarrow x + f(\mathrm{norm}(x)) \;\text{for}\; f = \mathrm{causal\ self}, \mathrm{ffn}, \qquad
   \mathrm{logits} = \mathrm{norm}(x)\, E^\top $$

Differences from an `Encoder`: attention is causal, and the embedding matrix E is also the output head (tied
embeddings), which gives the logits of the next token. With `caches` the model decodes incrementally.

| symbol                  | argument                                |
|-------------------------|-----------------------------------------|
| $e_{\mathrm{token}}$    | `token_embedding`, of `tokens`          |
| $e_{\mathrm{position}}$ | `position_embedding`, of `positions`    |
| E                       | the weight of `token_embedding`         |
| norm                    | `layer_norm` with an eps of `norm_eps`  |
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.arrays import with_rank
from torch_attention.caches import Cache, GrowingCache, StaticCache
from torch_attention.checks import check_padding_mask, check_pairs, check_tokens
from torch_attention.dropout_masks import LayerKeep, ModelKeep
from torch_attention.feed_forward import FeedForward
from torch_attention.layers import Dropout, Factory, embedding, linear, similarities
from torch_attention.models.special_tokens import SpecialTokens
from torch_attention.models.token_masks import token_mask
from torch_attention.models.token_numbers import check_numbers
from torch_attention.models.token_positions import places
from torch_attention.norms import layer_norm, normalise
from torch_attention.outputs import AttentionOutput, CachedOutput, HiddenOutput, LanguageOutput
from torch_attention.self_attention import CausalSelfAttention


@checked
@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder.

    Attributes:
        vocab_size: number of tokens in the vocabulary.
        embed_dim: number of features per position.
        num_heads: number of attention heads per layer; must divide `embed_dim`.
        num_layers: number of layers.
        ffn_dim: hidden features of the feed-forward network.
        max_len: number of positions with an embedding, the longest sequence.
        activation: activation of the feed-forward network: `"relu"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"` or
            `"silu"`.
        norm_eps: epsilon added to the variance in each normalisation.
        dropout: dropout rate of attention weights, embeddings and sublayer outputs in training.
        tied: whether the output head shares the token embedding's weight (tied embeddings); False for a separate
            weight.
        special_tokens: end, padding and start tokens, the defaults of `generate`.
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
    tied: bool = True
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)


@checked
class DecoderLayer(nn.Module):
    """Causal self-attention and feed-forward network, each as x = x + f(norm(x)) (Radford et al. 2019).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, the activation is unknown, or the dropout rate is
            outside [0, 1).
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        dim, eps = config.embed_dim, config.norm_eps
        self.attention_norm = layer_norm(dim, eps=eps, **factory)
        self.attention = CausalSelfAttention(dim, config.num_heads, dropout=config.dropout, **factory)
        self.ffn_norm = layer_norm(dim, eps=eps, **factory)
        self.ffn = FeedForward(dim, config.ffn_dim, activation=config.activation, **factory)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        cache: Cache | None = None,
        need_weights: bool = True,
        dropout_keep: LayerKeep | None = None,
    ) -> AttentionOutput | CachedOutput:
        """Run one layer; arguments, result and errors as in `CausalSelfAttention`."""
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
class Decoder(nn.Module):
    """Decoder-only Transformer, from tokens to next-token logits (Radford et al. 2019).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, the activation is unknown, or the dropout rate is
            outside [0, 1).
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.config = config
        self.token_embedding = embedding(config.vocab_size, config.embed_dim, **factory)
        self.position_embedding = embedding(config.max_len, config.embed_dim, **factory)
        self.layers = nn.ModuleList([DecoderLayer(config, **factory) for _ in range(config.num_layers)])
        self.final_norm = layer_norm(config.embed_dim, eps=config.norm_eps, **factory)
        self.head = (
            None if config.tied else linear(config.embed_dim, config.vocab_size, bias=False, **factory)
        )
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        mask: Shaped[Tensor, "..."] | None = None,
        *,
        positions: Int[Tensor, "..."] | None = None,
        caches: tuple[Cache, ...] | None = None,
        need_weights: bool = False,
        need_hidden_states: bool = False,
        dropout_keep: ModelKeep | None = None,
    ) -> LanguageOutput:
        """Compute the logits of the next token at each position.

        Args:
            tokens: token ids, below `vocab_size`; with `caches`, only the new tokens.
            mask: boolean mask, True where a query may attend to a key, combined with the causal mask;
                `padding_mask(tokens, pad_id)` for padded batches; with `caches`, `(batch, 1, 1, new)`.
            positions: positions of the tokens, `(length)` or `(batch, length)`; None continues from the cached tokens.
            caches: KV cache of each layer, for incremental decoding; `start()` returns empty ones; None without caches.
            need_weights: whether to return the attention weights of every layer.
            need_hidden_states: whether to return the hidden states: the first layer's input and every layer's output.
            dropout_keep: boolean dropout masks, True keeps; used instead of sampling them.

        Returns:
            Logits `(batch, length, vocab_size)`; the updated caches, or None without caches; a tuple with the attention
            weights of each layer, or None; and a tuple of hidden states, or None.

        Raises:
            TypeError: the mask is neither boolean nor 0/1.
            ValueError: shapes do not match, or a position has no embedding.
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
        tokens: Int[Tensor, "batch length"],
        mask: Shaped[Tensor, "..."] | None = None,
        *,
        positions: Int[Tensor, "..."] | None = None,
        caches: tuple[Cache, ...] | None = None,
        need_weights: bool = False,
        need_hidden_states: bool = False,
        dropout_keep: ModelKeep | None = None,
    ) -> HiddenOutput:
        """Compute the last hidden states `(batch, length, embed)`; arguments and errors as in the decoder's call."""
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
    def logits(self, x: Float[Tensor, "*batch embed"]) -> Float[Tensor, "*batch vocab"]:
        """Logits of the next token, from hidden states `x`."""
        return similarities(self.token_embedding, x) if self.head is None else self.head(x)

    @checked
    def start(self, capacity: int | None = None) -> tuple[Cache, ...]:
        """Empty KV caches for incremental decoding.

        Args:
            capacity: number of tokens that the caches hold; None for caches that grow. Compiled code (`jax.jit`,
                `torch.compile`) cannot raise an error for more tokens: they overwrite the last slots.
        """
        cache: Cache = GrowingCache() if capacity is None else StaticCache(capacity)
        return (cache,) * len(self.layers)


def main() -> None:
    """Print next-token logits of a small decoder, from one pass and from a decode step."""
    from torch_attention.demonstration import fill

    config = DecoderConfig(vocab_size=6, embed_dim=8, num_heads=2, num_layers=1, ffn_dim=8, max_len=4)
    decoder = fill(Decoder(config))
    tokens = torch.as_tensor([[1, 2, 3]])
    print("Decoder: logits of the next token")
    for token, scores in zip(tokens[0].tolist(), decoder(tokens).output[0].tolist(), strict=True):
        print(f"after {token}:", " ".join(f"{score:.3f}" for score in scores))
    caches = decoder(tokens[:, :2], caches=decoder.start()).caches
    read_on = decoder(tokens[:, 2:], caches=caches).output[0, 0].tolist()
    print("decode step, after 3:", " ".join(f"{score:.3f}" for score in read_on))


if __name__ == "__main__":
    main()
