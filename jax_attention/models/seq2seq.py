r"""The encoder-decoder Transformer of Vaswani et al. 2017 with pre-norm layers and learned positions.

$$ m = \mathrm{norm}(\mathrm{encode}(s)), \qquad
   \mathrm{logits} = W\, \mathrm{norm}(\mathrm{decode}(t, m)) $$

Differences from `EncoderDecoder`: layers are pre-norm, x = x + f(norm(x)), which trains without warm-up (Xiong et al.
2020), and each language has its own vocabulary and embeddings.

| symbol | argument or part                                 |
|--------|--------------------------------------------------|
| s, t   | `src_tokens`, `tgt_tokens`                       |
| encode | `encoder_layers`, each a `ViTBlock`              |
| decode | `decoder_layers`, each `EncoderDecoderAttention` |
| W      | `head`                                           |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.caches import Cache
from jax_attention.checks import check_padding_mask, check_positive, check_sequence, check_tokens
from jax_attention.cross_attention import EncoderDecoderAttention
from jax_attention.layers import Dropout, Factory, embedding, linear
from jax_attention.models.sequence import SequenceToSequence, check_decoding, sequence_output
from jax_attention.models.token_masks import token_mask
from jax_attention.models.token_numbers import check_numbers
from jax_attention.models.token_positions import places
from jax_attention.norms import layer_norm, normalise
from jax_attention.outputs import EncoderOutput, SequenceOutput, all_weights
from jax_attention.vision.vit import ViTBlock

NORM_EPS = 1e-5


@checked
class SimpleSeq2Seq(SequenceToSequence):
    """Encoder-decoder for translation, from tokens of two languages to next-token logits (Vaswani et al. 2017).

        logits = model(src_tokens, tgt_tokens, src_mask, tgt_mask)

    `run` also returns the attention weights of all layers; `generate` and `beam_search` generate text.

    Args:
        src_vocab_size, tgt_vocab_size: vocabulary sizes of the source and target languages.
        embed_dim: number of features per position.
        num_heads: number of attention heads per layer; must divide `embed_dim`.
        num_layers: number of encoder layers, and of decoder layers.
        ffn_dim: hidden features of the feed-forward networks; None for `4 * embed_dim`.
        max_len: number of positions with an embedding, for source and target each.
        dropout: dropout rate of embeddings, attention weights and the decoder's sublayer outputs in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, `num_layers` or `max_len` is below 1, or the dropout
            rate is outside [0, 1).
    """

    def __init__(
        self,
        src_vocab_size: int,
        tgt_vocab_size: int,
        embed_dim: int,
        num_heads: int,
        num_layers: int,
        *,
        ffn_dim: int | None = None,
        max_len: int = 512,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_positive(num_layers=num_layers, max_len=max_len)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.max_len = max_len
        self.source_embedding = embedding(src_vocab_size, embed_dim, **factory)
        self.source_position_embedding = embedding(max_len, embed_dim, **factory)
        self.encoder_layers = nnx.List(
            [
                ViTBlock(
                    embed_dim,
                    num_heads,
                    ffn_dim,
                    activation="relu",
                    norm_eps=NORM_EPS,
                    dropout=dropout,
                    **factory,
                )
                for _ in range(num_layers)
            ]
        )
        self.encoder_norm = layer_norm(embed_dim, eps=NORM_EPS, **factory)
        self.target_embedding = embedding(tgt_vocab_size, embed_dim, **factory)
        self.target_position_embedding = embedding(max_len, embed_dim, **factory)
        self.decoder_layers = nnx.List(
            [
                EncoderDecoderAttention(
                    embed_dim,
                    num_heads,
                    ffn_dim,
                    norm_first=True,
                    activation="relu",
                    norm_eps=NORM_EPS,
                    dropout=dropout,
                    **factory,
                )
                for _ in range(num_layers)
            ]
        )
        self.decoder_norm = layer_norm(embed_dim, eps=NORM_EPS, **factory)
        self.head = linear(embed_dim, tgt_vocab_size, **factory)
        self.dropout = Dropout(dropout, rngs=rngs)

    @property
    def num_source_tokens(self) -> int:
        """Size of the source vocabulary."""
        size: int = self.source_embedding.num_embeddings
        return size

    @property
    def max_target_len(self) -> int:
        """Maximum length of the target."""
        return self.max_len

    def __call__(
        self,
        src_tokens: Int[Array, "batch source"],
        tgt_tokens: Int[Array, "batch target"],
        src_mask: Shaped[Array, "..."] | None = None,
        tgt_mask: Shaped[Array, "..."] | None = None,
    ) -> Float[Array, "batch target vocab"]:
        """Compute the logits of the next token after each token of `tgt_tokens`.

        Args:
            src_tokens: token ids of the text to translate, below `src_vocab_size`.
            tgt_tokens: token ids of the translation so far, below `tgt_vocab_size`.
            src_mask: boolean mask, False at padding, such as `padding_mask(src_tokens, pad_id)`; None for no padding.
            tgt_mask: boolean mask of the target, combined with the causal mask, such as
                `padding_mask(tgt_tokens, pad_id)`; None for no mask.

        Returns:
            Logits `(batch, target, tgt_vocab_size)`.

        Raises:
            TypeError: the mask is neither boolean nor 0/1.
            ValueError: shapes do not match, or a position has no embedding.
        """
        return self.run(src_tokens, tgt_tokens, src_mask, tgt_mask, need_weights=False).output

    @checked
    def encode(
        self,
        source: Int[Array, "batch source"],
        source_mask: Shaped[Array, "..."] | None = None,
        *,
        need_weights: bool = False,
    ) -> EncoderOutput:
        """Encode `source`; arguments as in the model's call."""
        check_tokens(source, "src_tokens")
        check_numbers("src_tokens", source, self.source_embedding.num_embeddings)
        self._check_length("src_tokens", source)
        source_mask = token_mask(source_mask, source.shape, name="src_mask")
        check_padding_mask(source_mask, *source.shape, name="src_mask")
        positions = places(source, None, None, self.max_len)  # source
        x = self.source_embedding(source) + self.source_position_embedding(positions)  # batch source embed
        x = self.dropout(x)  # batch source embed
        layers = []
        for layer in self.encoder_layers:
            layers.append(layer(x, source_mask, need_weights=need_weights))
            x = layers[-1].output  # batch source embed
        return EncoderOutput(
            normalise(self.encoder_norm, x), None, all_weights(layer.weights for layer in layers)
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
        """Compute the logits of the next token; arguments as in `SequenceToSequence.decode`."""
        target_mask = token_mask(target_mask, target.shape, name="tgt_mask")
        self._check_target(target, target_mask, caches)
        check_sequence("memory", memory, self.embed_dim, batch=target.shape[0])
        source_mask = token_mask(source_mask, memory.shape[:2], name="src_mask")
        check_padding_mask(source_mask, *memory.shape[:2], name="src_mask")
        positions = places(target, None, caches, self.max_len)  # target
        x = self.target_embedding(target) + self.target_position_embedding(positions)  # batch target embed
        x = self.dropout(x)  # batch target embed
        layers = []
        for layer, cache in zip(
            self.decoder_layers, caches or (None,) * len(self.decoder_layers), strict=True
        ):
            layers.append(layer(x, memory, target_mask, source_mask, cache=cache, need_weights=need_weights))
            x = layers[-1].output  # batch target embed
        return sequence_output(self.head(normalise(self.decoder_norm, x)), layers)

    def _check_target(
        self,
        target: Int[Array, "..."],
        mask: Bool[Array, "..."] | None,
        caches: tuple[Cache, ...] | None,
    ) -> None:
        check_tokens(target, "tgt_tokens")
        check_numbers("tgt_tokens", target, self.target_embedding.num_embeddings)
        self._check_length("tgt_tokens", target)
        names = ("tgt_tokens", "tgt_mask")
        check_decoding(target, mask, caches, len(self.decoder_layers), self.num_heads, names=names)

    def _check_length(self, name: str, tokens: Int[Array, "batch length"]) -> None:
        # Checked here because `places` cannot check positions in compiled code.
        if tokens.shape[1] > self.max_len:
            raise ValueError(f"{name} must have at most max_len={self.max_len} tokens, got {tokens.shape[1]}")


def main() -> None:
    """Print cross-attention weights and logits of an untrained translation model."""
    from jax_attention.demonstration import fill, show
    from jax_attention.outputs import AttentionOutput

    model = fill(SimpleSeq2Seq(6, 5, embed_dim=8, num_heads=2, num_layers=1, max_len=4, rngs=nnx.Rngs(0)))
    read = model.run(jnp.asarray([[3, 1, 4]]), jnp.asarray([[1, 2]]))
    (weights,) = read.cross_weights or ()
    looked = AttentionOutput(read.output, weights)
    show("SimpleSeq2Seq, at the source", looked, ["<start>", "the"], ["le", "chat", "noir"])


if __name__ == "__main__":
    main()
