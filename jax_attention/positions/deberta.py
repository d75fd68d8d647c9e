r"""Disentangled attention: content-to-content, content-to-position and position-to-content scores (He et al. 2021).

$$ s_{ij} = \left[ q_i^\top k_j + q_i^\top K^r_{\delta(i, j)} + k_j^\top Q^r_{\delta(i, j)} \right] / \sqrt{3 d} $$

One change from `MultiHeadSelfAttention`: every distance bucket has an embedding as wide as a token's, projected to
queries Q^r and keys K^r. The sum of n kinds of scores is scaled by 1 / sqrt(nd), and `terms` chooses the kinds. The
layers of DeBERTa share one table of distance embeddings, a `DistanceEmbedding`.

The paper writes δ(j, i) in the third term. Its authors' code, and so all weights trained with it, use the row of
δ(i, j) there too, and so does this module.

| symbol   | argument        |                                                                                 |
|----------|-----------------|---------------------------------------------------------------------------------|
| δ(i, j)  | `num_buckets`   | bucket of i - j, plus `num_buckets`, clipped to the `2 num_buckets` rows        |
|          | `max_distance`  | distance at which the buckets end, see `deberta_bucket`                         |
|          | `terms`         | `"c2p"` for the second kind of scores, `"p2c"` for the third                     |
| K^r, Q^r |                 | `k_proj` and `q_proj` of `relative_embedding`, or `relative_k_proj`, `..._q_proj` |
| d        | `num_heads`     | `embed_dim / num_heads`                                                         |
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.checks import check_divisible, check_pairs, check_sequence
from jax_attention.layers import Dropout, Factory, embedding, linear
from jax_attention.ops import attend, merge_heads, split_heads
from jax_attention.outputs import AttentionOutput
from jax_attention.positions.distance_embedding import (
    DistanceEmbedding,
    DistanceRows,
    deberta_bucket,
    distance_rows,
)
from jax_attention.positions.protocol import check_shape, distances, look_up
from jax_attention.positions.shaw import relative_scores


@checked
class DisentangledSelfAttention(nnx.Module):
    """DeBERTa's disentangled multi-head self-attention, with relative position embeddings (He et al. 2021).

    Args:
        embed_dim: features of input, output and distance embeddings.
        num_heads: number of heads; must divide `embed_dim`.
        num_buckets: number of distance buckets per direction; even, at least 4; None for a bucket of each distance.
        max_distance: distance at which the buckets end; above `num_buckets / 2 + 1`.
        terms: kinds of position scores: `"c2p"`, content-to-position, and `"p2c"`, position-to-content.
        shares_embedding: whether the call gives the distance embeddings as `position`, which layers share; then
            `num_buckets` and `max_distance` are not used.
        share_projections: whether distance embeddings use the content projections (DeBERTa-v2, v3), or projections of
            their own (DeBERTa, the paper).
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes do not match, an unknown kind of scores, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_buckets: int | None = 256,
        max_distance: int = 512,
        terms: Sequence[str] = ("c2p", "p2c"),
        shares_embedding: bool = False,
        share_projections: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        if not terms or {*terms} - {"c2p", "p2c"} or len({*terms}) < len(terms):
            raise ValueError(f"terms must be 'c2p', 'p2c' or both, got {tuple(terms)}")
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        # Indexed by j - i, from -max_distance to max_distance.
        self.row_of = () if shares_embedding else distance_rows(num_buckets, max_distance)
        self.rows = tuple(range(2 * (max_distance if num_buckets is None else num_buckets)))
        self.relative_embedding = (
            None if shares_embedding else embedding(len(self.rows), embed_dim, **factory)
        )
        own = not share_projections
        self.relative_q_proj = (
            linear(embed_dim, embed_dim, bias=bias, **factory) if own and "p2c" in terms else None
        )
        self.relative_k_proj = (
            linear(embed_dim, embed_dim, bias=bias, **factory) if own and "c2p" in terms else None
        )
        self.terms = tuple(terms)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        position: nnx.Module | None = None,
        need_weights: bool = True,
        dropout_keep: Bool[Array, "batch heads length length"] | None = None,
    ) -> AttentionOutput:
        """Apply disentangled self-attention; other arguments, result and errors as in `MultiHeadSelfAttention`.

        Args:
            position: the `DistanceEmbedding` of a layer with `shares_embedding`; None otherwise.
        """
        check_sequence("x", x, self.embed_dim)
        check_pairs(x, x, mask, dropout_keep, self.num_heads)
        check_shape("positions", positions, x)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        scale = ((1 + len(self.terms)) * self.head_dim) ** -0.5
        rows = self._distance_rows(query, key, positions, position)
        heads, weights = attend(
            query,
            key,
            value,
            scale * self._distance_scores(query, key, rows),
            mask,
            scale=scale,
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(query, key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        return AttentionOutput(self.out_proj(merge_heads(heads)), weights)

    def _distance_rows(
        self,
        query: Float[Array, "batch heads length head_dim"],
        key: Float[Array, "batch heads length head_dim"],
        positions: Int[Array, "..."] | None,
        position: nnx.Module | None,
    ) -> DistanceRows:
        """Distance embeddings, and the row of each pair."""
        if self.relative_embedding is None and isinstance(position, DistanceEmbedding):
            return position(query, key, positions, positions)
        if self.relative_embedding is None or position is not None:
            expected = "the DistanceEmbedding of all layers" if self.relative_embedding is None else "None"
            kind = None if position is None else type(position).__name__
            raise ValueError(f"position must be {expected}, got {kind}")
        table = self.relative_embedding(jnp.asarray(self.rows))  # rows embed
        return DistanceRows(table, look_up(distances(query, key, positions, positions), self.row_of))

    def _distance_scores(
        self,
        query: Float[Array, "batch heads length head_dim"],
        key: Float[Array, "batch heads length head_dim"],
        rows: DistanceRows,
    ) -> Float[Array, "batch heads length length"]:
        """Sum of the position scores, without their scale."""
        scores: Any = 0.0
        if "c2p" in self.terms:
            proj = self.k_proj if self.relative_k_proj is None else self.relative_k_proj
            by_key = rearrange(proj(rows.table), "rows (heads d) -> heads rows d", d=self.head_dim)
            scores = scores + relative_scores(query, by_key, rows.row)  # batch heads query key
        if "p2c" in self.terms:
            proj = self.q_proj if self.relative_q_proj is None else self.relative_q_proj
            by_query = rearrange(proj(rows.table), "rows (heads d) -> heads rows d", d=self.head_dim)
            by_pair = relative_scores(key, by_query, rows.row.swapaxes(-1, -2))  # batch heads key query
            scores = scores + by_pair.swapaxes(-1, -2)
        return scores


def main() -> None:
    """Print the buckets of DeBERTa for some distances, and the attention weights of a sentence."""
    from jax_attention.demonstration import draw, fill, show

    far = (1, 2, 64, 128, 129, 200, 300, 511)
    print(
        "buckets:", *(f"{x}: {deberta_bucket(x, num_buckets=256, max_distance=512)}" for x in far), sep="  "
    )
    words = ["one", "two", "three"]
    attention = fill(
        DisentangledSelfAttention(embed_dim=6, num_heads=2, num_buckets=4, max_distance=8, rngs=nnx.Rngs(0))
    )
    show("DisentangledSelfAttention", attention(draw(1, 3, 6)), words, words)


if __name__ == "__main__":
    main()
