r"""LSH attention: a query attends to keys in its hash bucket or nearby ones (Reformer: Kitaev et al. 2020).

$$ h(x) = \arg\max\,[x R;\, -x R], \qquad
   o_i = \sum_{j \in P_i} \exp(q_i^\top k_j - z_i)\, v_j, \qquad
   P_i = \bigcup_r\, \{ j : 0 \le \lfloor s^r_i / m \rfloor - \lfloor s^r_j / m \rfloor \le 1 \} $$

Keys are the queries normalised to equal length, so similar directions have large scores. In each round r, random
rotations hash every position. Sorting by bucket moves position i to $s^r_i$, and chunks of m consecutive positions
attend to themselves and to the preceding chunk. A position attends to itself only if no other key is visible. Scores
are computed only within these chunks, so the cost is linear in the length.

| symbol | argument       |                                                                             |
|--------|----------------|-----------------------------------------------------------------------------|
| R      | `rotations`    | `(heads, head_dim, rounds, buckets / 2)`: a buffer, or argument of the call |
| r      | `num_rounds`   |                                                                             |
| m      | `chunk_length` | must divide the length                                                      |

The authors' code (Trax) and transformers differ from these equations in two ways, each an option here: a key that
shares a chunk in several rounds counts several times (`count_repeats`), and the first chunk of a round attends to the
last chunk of the previous round (`circular`).
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.arrays import stable_order
from jax_attention.checks import (
    check_divisible,
    check_keep,
    check_key_mask,
    check_positive,
    check_sequence,
)
from jax_attention.layers import Dropout, Factory, linear, normal_buffer, precise
from jax_attention.ops import at_least_float32, merge_heads, split_heads, weighted_values
from jax_attention.outputs import AttentionOutput
from jax_attention.sparse.hashing import lsh_attention, lsh_attention_weights, lsh_buckets


@checked
class LSHAttention(nnx.Module):
    """Multi-head self-attention among positions with similar hashes (Reformer: Kitaev et al. 2020).

    The weights of all rounds are combined in one mostly zero matrix, which is computed only with `need_weights`.

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        num_buckets: number of hash buckets in a round; even.
        chunk_length: number of positions in a chunk after sorting; must divide the length.
        num_rounds: number of rounds of hashing and sorting.
        is_causal: whether each position attends only to itself and earlier positions.
        count_repeats: whether a key counts once for every round in which it shares a chunk with the query.
        circular: whether the first chunk of a round attends to the last chunk of the previous round (the first round
            follows the last).
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes that do not divide, sizes below 1, an odd number of buckets, or a rate outside [0, 1).
    """

    no_decoding = "Its hash tables are sorted over the whole sequence, which a later token would change."

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_buckets: int,
        chunk_length: int,
        *,
        num_rounds: int = 1,
        is_causal: bool = False,
        count_repeats: bool = False,
        circular: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        check_positive(num_buckets=num_buckets, chunk_length=chunk_length, num_rounds=num_rounds)
        if num_buckets % 2:
            raise ValueError(f"num_buckets must be even, got {num_buckets}")
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.chunk_length = chunk_length
        self.is_causal = is_causal
        self.count_repeats = count_repeats
        self.circular = circular
        self.qk_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.rotations = normal_buffer(num_heads, self.head_dim, num_rounds, num_buckets // 2, **factory)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        rotations: Float[Array, "..."] | None = None,
        need_weights: bool = True,
        dropout_keep: Bool[Array, "batch heads length length"] | None = None,
    ) -> AttentionOutput:
        """Apply self-attention within chunks of similar positions.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, `(batch, 1, 1, length)`, True for visible positions; None for no mask. Masked positions
                are sorted last.
            rotations: random rotations of this call, in the shape of the buffer; None for the buffer.
            need_weights: whether to return the attention weights; without them, no matrix of all pairs is computed.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit, or a length that is not a multiple of `chunk_length`.
        """
        check_sequence("x", x, self.embed_dim)
        batch, length = x.shape[:2]
        check_divisible(length=length, chunk_length=self.chunk_length)
        check_key_mask(mask, batch, length)
        check_keep(dropout_keep, (batch, self.num_heads, length, length))
        kept = self.rotations[...]
        rotations = kept if rotations is None else rotations
        if tuple(rotations.shape) != tuple(kept.shape):
            raise ValueError(
                f"rotations must have shape (heads, head_dim, rounds, buckets / 2) = {tuple(kept.shape)}, "
                f"got {tuple(rotations.shape)}"
            )
        query = split_heads(precise(self.qk_proj, x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        key = at_least_float32(query)
        key = key / jnp.sqrt((key * key).mean(axis=-1, keepdims=True) + 1e-6)  # of length sqrt(head_dim)
        query = at_least_float32(query)
        buckets = lsh_buckets(query, rotations, mask)  # batch heads rounds length
        order = stable_order(buckets)  # batch heads rounds length
        num_chunks = length // self.chunk_length
        if not need_weights and length != 0:
            heads = lsh_attention(
                query,
                key,
                value,
                order,
                mask,
                num_chunks=num_chunks,
                is_causal=self.is_causal,
                circular=self.circular,
                count_repeats=self.count_repeats,
                dropout=self.dropout,
                dropout_keep=dropout_keep,
            )
            return AttentionOutput(self.out_proj(merge_heads(heads.astype(x.dtype))), None)
        weights = lsh_attention_weights(
            query,
            key,
            jnp.argsort(order, axis=-1) // self.chunk_length,
            mask,
            num_chunks=num_chunks,
            is_causal=self.is_causal,
            circular=self.circular,
            count_repeats=self.count_repeats,
        )
        heads = weighted_values(
            weights,
            value,
            dropout_keep=self.dropout.keep_weights(query, key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        return AttentionOutput(self.out_proj(merge_heads(heads)), weights if need_weights else None)


def main() -> None:
    """Show two heads whose chunks of two words attend to themselves and to the preceding chunk."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "old", "cat", "sat", "very", "still"]
    attention = fill(LSHAttention(embed_dim=6, num_heads=2, num_buckets=4, chunk_length=2, rngs=nnx.Rngs(0)))
    rotations = draw(2, 3, 1, 2, seed=1)
    show("LSHAttention", attention(draw(1, 6, 6), rotations=rotations), words, words)


if __name__ == "__main__":
    main()
