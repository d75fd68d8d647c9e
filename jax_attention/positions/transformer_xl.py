r"""Transformer-XL relative positions: content and distance scores, each with a learned query bias (Dai et al. 2019).

$$ s_{ij} = \left[ (q_i + u)^\top k_j + (q_i + v)^\top W_R\, r_{i - j} \right] / \sqrt{d}, \qquad
   r_x = [\sin(x\,\theta), \cos(x\,\theta)] $$

Two changes from `ShawEmbedding`: the vector of a distance is a sinusoid, projected per head, so distances are
unlimited; and two biases u and v are added to every query, for the content scores and for the distance scores. All
sines come before all cosines.

| symbol | argument    | shape                                                      |
|--------|-------------|------------------------------------------------------------|
| W_R    | `embed_dim` | `distance_weight`, `(embed_dim, num_heads, head_dim)`      |
| u      | `num_heads` | `content_bias`, `(num_heads, head_dim)`                    |
| v      | `head_dim`  | `distance_bias`, `(num_heads, head_dim)`                   |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from jax_attention.arguments import checked
from jax_attention.arrays import einsum, matmul
from jax_attention.checks import check_divisible
from jax_attention.layers import Factory, parameter
from jax_attention.ops import Placed, at_least_float32
from jax_attention.positions.absolute import sinusoid
from jax_attention.positions.protocol import check_heads, distances, positions_or_count
from jax_attention.positions.rotary import rotary_frequencies
from jax_attention.positions.shaw import relative_scores


@checked
def counted_distance_scores(
    query: Float[Array, "batch heads query head_dim"],
    key: Float[Array, "batch kv_heads key head_dim"],
    weight: Float[Array, "embed heads head_dim"],
    frequencies: Float[Array, " pairs"],
) -> Float[Array, "batch heads query key"]:
    """Compute q_i · W r_{i-j} for positions that count from 0, by projecting each distance once and a gather."""
    query_len, latest = query.shape[-2], key.shape[-2] - 1
    steps = jnp.arange(query_len + key.shape[-2]) - latest  # rows, with one unused
    encoded = sinusoid(steps, frequencies, interleaved=False)  # rows embed
    rows = einsum("re,ehd->hrd", encoded, weight)  # heads rows head_dim
    return relative_scores(query, rows, latest - distances(query, key))  # batch heads query key


@checked
def distance_scores(
    query: Float[Array, "batch heads query head_dim"],
    weight: Float[Array, "embed heads head_dim"],
    frequencies: Float[Array, " pairs"],
    query_positions: Int[Array, "... query"],
    key_positions: Int[Array, "... key"],
) -> Float[Array, "batch heads query key"]:
    """Compute q_i · W r_{i-j} for any positions, without a vector per pair.

    sin((i - j) θ) and cos((i - j) θ) expand into products of sines and cosines of iθ and jθ. So the result is a product
    of Wᵀq, rotated by the query position, with the sinusoid of the key position.
    """
    asked = einsum("bhqd,ehd->bhqe", query, weight)  # batch heads query embed
    pairs = frequencies.shape[-1]
    of_sine, of_cosine = asked[..., :pairs], asked[..., pairs:]  # batch heads query pairs
    here = sinusoid(query_positions, frequencies, interleaved=False)[..., None, :, :]  # 1|batch 1 query embed
    there = sinusoid(key_positions, frequencies, interleaved=False)[..., None, :, :]  # 1|batch 1 key embed
    sine, cosine = here[..., :pairs], here[..., pairs:]  # 1|batch 1 query pairs
    for_sine = of_cosine * sine - of_sine * cosine  # batch heads query pairs
    for_cosine = of_sine * sine + of_cosine * cosine  # batch heads query pairs
    return matmul(
        jnp.concatenate([for_sine, for_cosine], axis=-1), there.swapaxes(-1, -2)
    )  # batch heads query key


@checked
class TransformerXLEmbedding(nnx.Module):
    """Transformer-XL relative positions: separate scores for content and distance (Dai et al. 2019, section 3.3).

    Args:
        embed_dim: features of the sinusoid of a distance; even.
        num_heads: number of query heads.
        head_dim: features of a head.
        scale: factor on the scores, equal to the scale of the attention class; `1 / sqrt(head_dim)` if None.

    Raises:
        ValueError: `embed_dim` is odd.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        scale: float | None = None,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_divisible(embed_dim=embed_dim, pair=2)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.scale = head_dim**-0.5 if scale is None else scale
        self.frequencies = rotary_frequencies(embed_dim)
        self.distance_weight = parameter(embed_dim, num_heads, head_dim, **factory)
        self.content_bias = parameter(num_heads, head_dim, **factory)
        self.distance_bias = parameter(num_heads, head_dim, **factory)

    def __call__(
        self,
        query: Float[Array, "batch heads query head_dim"],
        key: Float[Array, "batch kv_heads key head_dim"],
        query_positions: Int[Array, "..."] | None = None,
        key_positions: Int[Array, "..."] | None = None,
    ) -> Placed:
        """Add u to the queries, and return the distance scores as bias; arguments as in `place`.

        Raises:
            ValueError: the queries do not have `num_heads` heads, or the heads do not have `head_dim` features.
        """
        check_heads(query, key, num_heads=self.num_heads, head_dim=self.head_dim)
        wide = at_least_float32(query)  # batch heads query head_dim
        frequencies = jnp.asarray(self.frequencies, dtype=wide.dtype)  # pairs
        weight = self.distance_weight[...].astype(wide.dtype)  # embed heads head_dim
        towards = wide + self.distance_bias[...][None, :, None].astype(
            wide.dtype
        )  # batch heads query head_dim
        if query_positions is None and key_positions is None:
            scores = counted_distance_scores(towards, key, weight, frequencies)  # batch heads query key
        else:
            query_positions = positions_or_count(query_positions, query.shape[-2])
            key_positions = positions_or_count(key_positions, key.shape[-2])
            scores = distance_scores(towards, weight, frequencies, query_positions, key_positions)
        content = wide + self.content_bias[...][None, :, None].astype(
            wide.dtype
        )  # batch heads query head_dim
        return Placed(content.astype(query.dtype), key, self.scale * scores)


def main() -> None:
    """Print the weights of a segment that attends to itself and to the previous segment."""
    from jax_attention.cross_attention import MultiHeadCrossAttention
    from jax_attention.demonstration import draw, fill, show

    words = ["one", "two", "three", "four", "five"]
    segment, memory = draw(1, 2, 6), draw(1, 3, 6, seed=1)
    position = TransformerXLEmbedding(6, num_heads=2, head_dim=3, rngs=nnx.Rngs(0))
    attention = fill(
        MultiHeadCrossAttention(6, 6, 6, num_heads=2, position=position, bias=False, rngs=nnx.Rngs(0))
    )
    seen = jnp.concatenate([memory, segment], axis=1)  # batch key embed
    result = attention(segment, seen, query_positions=jnp.arange(3, 5))
    show("MultiHeadCrossAttention with TransformerXLEmbedding", result, words[3:], words)


if __name__ == "__main__":
    main()
