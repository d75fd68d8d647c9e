r"""Relative position representations: a learned vector for each distance, in keys and values (Shaw et al. 2018).

$$ s_{ij} = q_i^\top (k_j + a^K_{c(j - i)}) / \sqrt{d}, \qquad o_i = \sum_j \alpha_{ij} (v_j + a^V_{c(j - i)}),
   \qquad c(x) = \max(-k, \min(x, k)) $$

One change from `MultiHeadSelfAttention`: the vectors a, which all heads share. `ShawEmbedding` has only a^K, as later
work does, and works with any dot-product class; `ShawSelfAttention` has both a^K and a^V.

| symbol | argument       | shape                                                    |
|--------|----------------|----------------------------------------------------------|
| k      | `max_distance` | largest distance; distances beyond it are clipped        |
| a^K    |                | `key_embedding`, `(2 max_distance + 1, head_dim)`        |
| a^V    |                | `value_embedding`, `(2 max_distance + 1, head_dim)`      |
"""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.arrays import einsum, matmul, take_along
from jax_attention.caches import KeyValue
from jax_attention.checks import check_positive
from jax_attention.frame import Dropping, SelfAttentionFrame, SelfCall, grouped_heads
from jax_attention.layers import Factory, embedding
from jax_attention.ops import (
    Placed,
    at_least_float32,
    masked_softmax,
    merge_heads,
    split_heads,
    weighted_values,
)
from jax_attention.ops.arrays import sum_by_slot
from jax_attention.outputs import AttentionOutput, CachedOutput
from jax_attention.positions.protocol import check_heads, distances, look_up


@checked
def relative_scores(
    x: Float[Array, "batch heads length head_dim"],
    rows: Float[Array, "... rows head_dim"],
    row: Int[Array, "... length other"],
) -> Float[Array, "batch heads length other"]:
    """Compute x_i · rows[row_ij] for every pair, from one matrix product of `x` and `rows` and a gather.

    Args:
        x: queries or keys, `(batch, heads, length, head_dim)`.
        rows: one vector per distance, `(rows, head_dim)` for all heads or `(heads, rows, head_dim)`.
        row: row index of each pair, broadcast to the result.
    """
    scores = matmul(at_least_float32(x), at_least_float32(rows).swapaxes(-1, -2))  # batch heads length rows
    return take_along(scores, row, -1)  # batch heads length other


@checked
class ShawEmbedding(nnx.Module):
    """Relative position embedding of keys: adds a learned vector per distance to each key (Shaw et al. 2018).

    It has a^K only, not a^V.

    Args:
        head_dim: features of a head.
        max_distance: largest distance with its own vector; distances beyond it are clipped.
        scale: factor on the scores, equal to the scale of the attention class; `1 / sqrt(head_dim)` if None.

    Raises:
        ValueError: `max_distance` is below 1.
    """

    def __init__(
        self,
        head_dim: int,
        max_distance: int,
        *,
        scale: float | None = None,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_positive(max_distance=max_distance)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.head_dim = head_dim
        self.scale = head_dim**-0.5 if scale is None else scale
        self.rows = tuple(range(2 * max_distance + 1))
        self.key_embedding = embedding(len(self.rows), head_dim, **factory)

    def __call__(
        self,
        query: Float[Array, "batch heads query head_dim"],
        key: Float[Array, "batch kv_heads key head_dim"],
        query_positions: Int[Array, "..."] | None = None,
        key_positions: Int[Array, "..."] | None = None,
    ) -> Placed:
        """Return queries and keys unchanged, with the scores of the distance vectors as bias; arguments as in `place`.

        Raises:
            ValueError: the heads do not have `head_dim` features.
        """
        check_heads(query, key, head_dim=self.head_dim)
        row = look_up(distances(query, key, query_positions, key_positions), self.rows)  # 1|batch 1 query key
        table = self.key_embedding(jnp.asarray(self.rows))  # rows head_dim
        return Placed(query, key, self.scale * relative_scores(query, table, row))


@checked
class ShawSelfAttention(SelfAttentionFrame):
    """Multi-head self-attention with relative position embeddings of keys and values (Shaw et al. 2018).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        max_distance: largest distance with its own vector; distances beyond it are clipped.
        is_causal: whether each position attends only to itself and earlier positions.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, `max_distance` is below 1, or a rate outside [0, 1).
    """

    position: ShawEmbedding

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        max_distance: int,
        *,
        is_causal: bool = False,
        bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
        **options: Unpack[Dropping],
    ):
        heads = grouped_heads(embed_dim, num_heads)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        position = ShawEmbedding(heads.head_dim, max_distance, **factory)
        super().__init__(
            embed_dim, num_heads, heads.head_dim, is_causal=is_causal, position=position, rngs=rngs, **options
        )
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)
        self.value_embedding = embedding(2 * max_distance + 1, self.head_dim, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention with relative positions; arguments and errors as in `MultiHeadSelfAttention`.

        With `is_causal`, `cache` is a KV cache as in `CausalSelfAttention`.
        """
        self.check(x, mask, **call)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        found = self.recall(KeyValue(key, value), mask, **call)
        places = found.query_positions, found.key_positions
        seen = self.place(found, query, found.entries.key, **call)
        weights = masked_softmax(*seen.scores())  # batch heads length length
        rows = self.position.rows
        kept = self.dropout(weights, seen.dropout_keep)  # batch heads length length
        row = look_up(distances(seen.query, seen.key, *places), rows)  # 1|batch 1 length length
        by_row = sum_by_slot(kept, row, len(rows))  # batch heads length rows
        table = self.value_embedding(jnp.asarray(rows))  # rows head_dim
        shifts = einsum("bhqr,rd->bhqd", by_row, at_least_float32(table))  # batch heads length head_dim
        heads = (weighted_values(kept, at_least_float32(seen.value)) + shifts).astype(
            value.dtype
        )  # batch heads length head_dim
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Print the weights of causal attention with separate vectors for distances 0, 1, and 2 or more."""
    from jax_attention.demonstration import draw, fill, show

    words = ["one", "two", "three", "four"]
    attention = fill(
        ShawSelfAttention(embed_dim=6, num_heads=2, max_distance=2, is_causal=True, rngs=nnx.Rngs(0))
    )
    show("ShawSelfAttention", attention(draw(1, 4, 6)), words, words)


if __name__ == "__main__":
    main()
