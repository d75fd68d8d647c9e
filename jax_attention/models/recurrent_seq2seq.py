r"""A recurrent encoder-decoder with attention, the model that introduced attention (Bahdanau et al. 2014).

$$ h_j = [\overrightarrow{\mathrm{GRU}}(s)_j;\ \overleftarrow{\mathrm{GRU}}(s)_j], \qquad
   z_0 = \tanh(W_z \overleftarrow{h}_1), $$
$$ c_i = \mathrm{attention}(z_{i-1}, h, h), \qquad z_i = \mathrm{GRU}([t_i; c_i],\, z_{i-1}), \qquad
   \mathrm{logits}_i = W \tanh(W_o [z_i; c_i]) $$

The decoder follows Bahdanau, Cho & Bengio 2014; its readout is the attentional state of Luong, Pham & Manning 2015.
`attention` can be any class of `attention_basics` that scores one state against others.

| symbol | argument or part                                                 |
|--------|------------------------------------------------------------------|
| s, t   | `src_tokens`, `tgt_tokens`, through their embeddings             |
| h      | output of `encode`, from `forward_cell` and `backward_cell`      |
| z      | the states of `decoder_cell`; z_0 through `start_proj`           |
| W_o, W | `readout_proj`, `head`                                           |
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.arrays import record
from jax_attention.checks import (
    check_divisible,
    check_padding_mask,
    check_positive,
    check_sequence,
    check_tokens,
)
from jax_attention.latents.gru import GRUCell
from jax_attention.layers import Dropout, Factory, embedding, linear
from jax_attention.models.sequence import SequenceToSequence
from jax_attention.models.token_masks import token_mask
from jax_attention.models.token_numbers import check_numbers
from jax_attention.ops import scan
from jax_attention.outputs import AttentionOutput, EncoderOutput, SequenceOutput


@record()
class RecurrentCache:
    """Recurrent state of the decoder.

    Attributes:
        state: state `(batch, hidden)`; None before the first call.
    """

    state: Any = None

    @checked
    def select(self, rows: Int[Array, " rows"]) -> "RecurrentCache":
        """Select the states of these batch rows, in this order."""
        return RecurrentCache(None if self.state is None else self.state[rows])


@checked
def gru_states(
    cell: GRUCell,
    x: Float[Array, "length batch input"],
    there: Bool[Array, "length batch"],
    state: Float[Array, "batch hidden"],
) -> Float[Array, "length batch hidden"]:
    """GRU state after each element of a sequence; masked elements leave the state unchanged."""

    def step(state: Array, given: tuple[Array, ...]) -> tuple[Array, Array]:
        element, is_there = given
        following = jnp.where(is_there[:, None], cell(element, state), state)  # batch hidden
        return following, following

    return scan(step, state, (x, there))[1]


@checked
class RecurrentSeq2Seq(SequenceToSequence):
    """Recurrent encoder-decoder with attention, from tokens to next-token logits (Bahdanau et al. 2014).

        logits, weights = model(src_tokens, tgt_tokens, src_mask, tgt_mask)

    Args:
        src_vocab_size, tgt_vocab_size: vocabulary sizes of the source and target languages.
        embed_dim: number of features per token.
        hidden_dim: features of the decoder's state and of the encoder's output; even, because each of the encoder's two
            directions has half of them.
        attention: attention module: `BasicAttention(hidden_dim, hidden_dim, ...)`, `LuongAttention(...)`, or any module
            from query, key, value and mask to an `AttentionOutput` with weights `(batch, query, key)`.
        dropout: dropout rate of embeddings and readout in training.

    Raises:
        ValueError: `hidden_dim` is odd, the dropout rate is outside [0, 1), or the attention has dropout.
    """

    def __init__(
        self,
        src_vocab_size: int,
        tgt_vocab_size: int,
        embed_dim: int,
        hidden_dim: int,
        attention: nnx.Module,
        *,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_divisible(hidden_dim=hidden_dim, directions=2)
        inner_dropout: Any = getattr(attention, "dropout", None)
        if inner_dropout is not None and inner_dropout.rate > 0:
            raise ValueError(
                f"attention must have dropout=0 where it is a step of a recurrence, got {inner_dropout.rate}"
            )
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.hidden_dim = hidden_dim
        self.source_embedding = embedding(src_vocab_size, embed_dim, **factory)
        self.forward_cell = GRUCell(embed_dim, hidden_dim // 2, **factory)
        self.backward_cell = GRUCell(embed_dim, hidden_dim // 2, **factory)
        self.target_embedding = embedding(tgt_vocab_size, embed_dim, **factory)
        self.start_proj = linear(hidden_dim // 2, hidden_dim, **factory)
        self.attention = attention
        self.decoder_cell = GRUCell(embed_dim + hidden_dim, hidden_dim, **factory)
        self.readout_proj = linear(2 * hidden_dim, hidden_dim, **factory)
        self.head = linear(hidden_dim, tgt_vocab_size, **factory)
        self.dropout = Dropout(dropout, rngs=rngs)

    @property
    def num_source_tokens(self) -> int:
        """Size of the source vocabulary."""
        size: int = self.source_embedding.num_embeddings
        return size

    @property
    def max_target_len(self) -> None:
        """None: the length of the target is not limited."""
        return None

    @checked
    def start(self, length: int) -> tuple[Any, ...]:
        """Empty cache for incremental decoding; its size does not depend on `length`."""
        return (RecurrentCache(),)

    def __call__(
        self,
        src_tokens: Int[Array, "batch source"],
        tgt_tokens: Int[Array, "batch target"],
        src_mask: Shaped[Array, "..."] | None = None,
        tgt_mask: Shaped[Array, "..."] | None = None,
    ) -> AttentionOutput:
        """Compute the logits of the next token after each token of `tgt_tokens`.

        Args:
            src_tokens: token ids of the text to translate, below `src_vocab_size`.
            tgt_tokens: token ids of the translation so far, below `tgt_vocab_size`.
            src_mask: boolean mask, False at padding, such as `padding_mask(src_tokens, pad_id)`; None for no padding.
            tgt_mask: boolean mask of the target, False at padding, which leaves the state unchanged; None for no
                padding.

        Returns:
            Logits `(batch, target, tgt_vocab_size)` and attention weights `(batch, target, source)`.

        Raises:
            TypeError: the mask is neither boolean nor 0/1.
            ValueError: shapes do not match, or a sequence is empty.
        """
        run = self.run(src_tokens, tgt_tokens, src_mask, tgt_mask)
        weights = run.cross_weights or ()
        return AttentionOutput(run.output, weights[0][:, 0])

    @checked
    def encode(
        self,
        source: Int[Array, "batch source"],
        source_mask: Shaped[Array, "..."] | None = None,
        *,
        need_weights: bool = False,
    ) -> EncoderOutput:
        """Encode `source` in both directions, without attention weights; arguments as in the model's call."""
        check_tokens(source, "src_tokens")
        check_numbers("src_tokens", source, self.source_embedding.num_embeddings)
        check_positive(source=source.shape[1])
        source_mask = token_mask(source_mask, source.shape, name="src_mask")
        check_padding_mask(source_mask, *source.shape, name="src_mask")
        there = _there(source, source_mask)  # source batch
        x = self.dropout(self.source_embedding(source)).swapaxes(0, 1)  # source batch embed
        first = jnp.zeros((x.shape[1], self.hidden_dim // 2), dtype=x.dtype)  # batch hidden/2
        forward = gru_states(self.forward_cell, x, there, first)  # source batch hidden/2
        x, there = jnp.flip(x, (0,)), jnp.flip(there, (0,))
        backward = jnp.flip(gru_states(self.backward_cell, x, there, first), (0,))  # source batch hidden/2
        memory = jnp.concatenate([forward, backward], axis=-1).swapaxes(0, 1)  # batch source hidden
        return EncoderOutput(memory, None, None)

    @checked
    def decode(
        self,
        target: Int[Array, "batch target"],
        memory: Float[Array, "batch source hidden"],
        target_mask: Shaped[Array, "..."] | None = None,
        source_mask: Shaped[Array, "..."] | None = None,
        *,
        caches: tuple[Any, ...] | None = None,
        need_weights: bool = False,
    ) -> SequenceOutput:
        """Compute next-token logits, as in `SequenceToSequence.decode`; `caches` holds one `RecurrentCache`."""
        check_tokens(target, "tgt_tokens")
        check_numbers("tgt_tokens", target, self.target_embedding.num_embeddings)
        check_positive(target=target.shape[1])
        target_mask = token_mask(target_mask, target.shape, name="tgt_mask")
        check_padding_mask(target_mask, *target.shape, name="tgt_mask")
        check_sequence("memory", memory, self.hidden_dim, batch=target.shape[0])
        source_mask = token_mask(source_mask, memory.shape[:2], name="src_mask")
        check_padding_mask(source_mask, *memory.shape[:2], name="src_mask")
        if caches is not None and len(caches) != 1:
            raise ValueError(f"caches must be one for the one recurrence, got {len(caches)}")

        def step(state: Array, given: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
            element, is_there = given
            context, weights = self.attention(state[:, None], memory, memory, source_mask)
            context = context[:, 0].astype(state.dtype)  # batch hidden
            read = jnp.concatenate([element, context], axis=-1)  # batch embed+hidden
            following = jnp.where(is_there[:, None], self.decoder_cell(read, state), state)  # batch hidden
            return following, (following, context, weights[:, 0])

        x = self.dropout(self.target_embedding(target)).swapaxes(0, 1)  # target batch embed
        state = None if caches is None else caches[0].state
        if state is None:
            state = jnp.tanh(self.start_proj(memory[:, 0, self.hidden_dim // 2 :]))  # batch hidden
        state, (states, contexts, weights) = scan(step, state, (x, _there(target, target_mask)))
        both = jnp.concatenate([states, contexts], axis=-1).swapaxes(0, 1)  # batch target 2*hidden
        readout = self.dropout(jnp.tanh(self.readout_proj(both)))  # batch target hidden
        return SequenceOutput(
            self.head(readout),
            None if caches is None else (RecurrentCache(state),),
            None,
            None,
            (weights.swapaxes(0, 1)[:, None],) if need_weights else None,
        )


def _there(
    tokens: Int[Array, "batch length"], mask: Bool[Array, "batch 1 1 length"] | None
) -> Bool[Array, "length batch"]:
    """Boolean mask of the real tokens, `(length, batch)`."""
    if mask is None:
        return jnp.ones(tokens.shape, dtype=jnp.bool_).swapaxes(0, 1)
    return mask[:, 0, 0].swapaxes(0, 1)


def main() -> None:
    """Print attention weights and logits of an untrained translation model."""
    from jax_attention.attention_basics import BasicAttention
    from jax_attention.demonstration import fill, show

    attention = BasicAttention(query_dim=8, key_dim=8, hidden_dim=5, rngs=nnx.Rngs(0))
    model = fill(RecurrentSeq2Seq(6, 5, embed_dim=4, hidden_dim=8, attention=attention, rngs=nnx.Rngs(0)))
    read = model(jnp.asarray([[3, 1, 4]]), jnp.asarray([[1, 2]]))
    show("RecurrentSeq2Seq", read, ["<start>", "the"], ["le", "chat", "noir"])


if __name__ == "__main__":
    main()
