r"""Sparsemax attention: weights are exactly zero for all keys with low scores (Martins & Astudillo 2016).

$$ \mathrm{sparsemax}(z) = \arg\min_{p \in \Delta} \lVert p - z \rVert^2, \qquad
   p_j = \max(z_j - \tau, 0) = \begin{cases} z_j - \bar{z}_S + 1 / |S| & j \in S \\ 0 & \text{else} \end{cases} $$

One change from `MultiHeadSelfAttention`: the softmax is replaced by the Euclidean projection onto the simplex Δ. S is
the support: the k largest scores for the largest k with $1 + k z_{(k)} > \sum_{j \le k} z_{(j)}$, and $\bar{z}_S$ is
their mean.

| symbol | argument |
|--------|----------|
| z      | `scores` |
"""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.arrays import stable_order, take_along, with_rank
from jax_attention.caches import KeyValue
from jax_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from jax_attention.layers import Factory, precise
from jax_attention.ops import (
    at_least_float32,
    merge_heads,
    split_heads,
)
from jax_attention.outputs import AttentionOutput, CachedOutput


@checked
def below_the_top(scores: Float[Array, "... key"], mask: Bool[Array, "... key"]) -> Float[Array, "... key"]:
    """Subtract the largest unmasked score and clip to [-1, 0]; masked scores become -1.

    A score at least 1 below the largest is outside the support of `sparsemax`; the same holds for half the scores in
    `entmax15`.
    """
    seen = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    top = jnp.amax(seen, axis=-1, keepdims=True)  # ... 1
    return jnp.where(mask, jnp.clip(seen - top, min=-1.0), -1.0)


@checked
def descending(x: Float[Array, "... key"]) -> Float[Array, "... key"]:
    """Sort along the last axis in descending order."""
    return take_along(x, stable_order(-x), -1)


@checked
def sparsemax(
    scores: Float[Array, "... query key"], mask: Bool[Array, "..."] | None = None
) -> Float[Array, "... query key"]:
    """Project the scores onto the probability simplex, in at least float32 (Martins & Astudillo 2016).

    Args:
        scores: attention scores.
        mask: boolean mask, True where a query may attend to a key, broadcast to `scores`; None for no mask.

    Returns:
        Weights that sum to one over the keys, exactly zero where masked and outside the support. A fully masked row and
        its gradients are zero.
    """
    scores = at_least_float32(scores)
    if scores.shape[-1] == 0:
        return scores
    everything = jnp.ones_like(scores, dtype=jnp.bool_)
    mask = everything if mask is None else everything & mask
    # The support is boolean, so no gradient flows through its computation.
    below = below_the_top(scores, mask)  # ... key
    ordered = descending(below)  # ... key
    count = jnp.arange(1, scores.shape[-1] + 1, dtype=scores.dtype)  # key
    sums = jnp.cumsum(ordered, axis=-1)  # ... key
    size = (1.0 + with_rank(count, sums.ndim) * ordered > sums).sum(axis=-1, keepdims=True)  # ... 1
    last = take_along(sums, size - 1, -1)  # ... 1
    threshold = (last - 1.0) / size.astype(sums.dtype)  # ... 1
    support = mask & (below > threshold)  # ... key
    # On the support the weights are linear in the scores, so their gradient is exact.
    size = jnp.clip(support.sum(axis=-1, keepdims=True), min=1).astype(scores.dtype)  # ... 1
    mean = jnp.where(support, scores, 0.0).sum(axis=-1, keepdims=True) / size  # ... 1
    return jnp.where(support, scores - mean + 1.0 / size, 0.0)


@checked
class SparsemaxAttention(SelfAttentionFrame):
    """Multi-head self-attention with sparsemax instead of softmax (Martins & Astudillo 2016).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        is_causal: whether each position attends only to itself and earlier positions.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        is_causal: bool = False,
        bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
        **options: Unpack[Scaling],
    ):
        heads = grouped_heads(embed_dim, num_heads)
        super().__init__(embed_dim, num_heads, heads.head_dim, is_causal=is_causal, rngs=rngs, **options)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention with sparsemax weights.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            cache: KV cache of the earlier positions, if `is_causal`; None without one.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; a `CachedOutput` with a
            cache.
        """
        self.check(x, mask, **call)
        query = split_heads(precise(self.q_proj, x), self.head_dim)  # batch heads length head_dim
        key = split_heads(precise(self.k_proj, x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        weights = sparsemax(*seen.scores())  # batch heads length length
        heads = seen.read(weights)  # batch heads length head_dim
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show sparsemax of increasingly spread scores, and attention in which most weights are zero."""
    from jax_attention.demonstration import draw, fill, show

    for scores in ([[0.0, 0.1, 0.2]], [[0.0, 0.5, 1.0]], [[0.0, 1.0, 2.0]]):
        weights = sparsemax(jnp.asarray(scores))[0]
        print(f"sparsemax of {scores[0]}:", " ".join(f"{weight:.3f}" for weight in weights.tolist()))
    words = ["the", "cat", "sat", "still"]
    attention = fill(SparsemaxAttention(embed_dim=8, num_heads=2, rngs=nnx.Rngs(0)))
    show("SparsemaxAttention", attention(draw(1, 4, 8)), words, words)


if __name__ == "__main__":
    main()
