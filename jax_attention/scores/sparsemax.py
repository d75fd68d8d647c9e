r"""Sparsemax attention: weights that are exactly zero for all but the best keys (Martins & Astudillo 2016).

$$ \mathrm{sparsemax}(z) = \arg\min_{p \in \Delta} \lVert p - z \rVert^2, \qquad
   p_j = \max(z_j - \tau, 0) = \begin{cases} z_j - \bar{z}_S + 1 / |S| & j \in S \\ 0 & \text{else} \end{cases} $$

One change from `MultiHeadSelfAttention`: the nearest point of the simplex Δ in place of the softmax. S is the support:
the k largest scores for the largest k with $1 + k z_{(k)} > \sum_{j \le k} z_{(j)}$, and $\bar{z}_S$ is their mean.

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
    """Scores less the largest visible one, between -1 and 0; -1 where masked.

    A score that is 1 or more below the top is in no support, neither of `sparsemax` nor of half of it in `entmax15`.
    """
    seen = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    top = jnp.amax(seen, axis=-1, keepdims=True)  # ... 1
    return jnp.where(mask, jnp.clip(seen - top, min=-1.0), -1.0)


@checked
def descending(x: Float[Array, "... key"]) -> Float[Array, "... key"]:
    """Sorted along the last axis, the largest first."""
    return take_along(x, stable_order(-x), -1)


@checked
def sparsemax(
    scores: Float[Array, "... query key"], mask: Bool[Array, "..."] | None = None
) -> Float[Array, "... query key"]:
    """The point of the simplex that is nearest to the scores, in at least float32 (Martins & Astudillo 2016).

    Args:
        scores: any real numbers.
        mask: boolean mask, True where a query may attend to a key, broadcast to `scores`; None for no mask.

    Returns:
        Weights that sum to one along the keys, exactly zero where masked and beyond the support; a row with no
        visible key is zero throughout, and so are its gradients.
    """
    scores = at_least_float32(scores)
    if scores.shape[-1] == 0:
        return scores
    everything = jnp.ones_like(scores, dtype=jnp.bool_)
    mask = everything if mask is None else everything & mask
    # Which keys are in the support: a yes or no, through which no gradient flows.
    below = below_the_top(scores, mask)  # ... key
    ordered = descending(below)  # ... key
    count = jnp.arange(1, scores.shape[-1] + 1, dtype=scores.dtype)  # key
    sums = jnp.cumsum(ordered, axis=-1)  # ... key
    size = (1.0 + with_rank(count, sums.ndim) * ordered > sums).sum(axis=-1, keepdims=True)  # ... 1
    last = take_along(sums, size - 1, -1)  # ... 1
    threshold = (last - 1.0) / size.astype(sums.dtype)  # ... 1
    support = mask & (below > threshold)  # ... key
    # On the support the weights are linear in the scores, and so their gradient is exact.
    size = jnp.clip(support.sum(axis=-1, keepdims=True), min=1).astype(scores.dtype)  # ... 1
    mean = jnp.where(support, scores, 0.0).sum(axis=-1, keepdims=True) / size  # ... 1
    return jnp.where(support, scores - mean + 1.0 / size, 0.0)


@checked
class SparsemaxAttention(SelfAttentionFrame):
    """Multi-head self-attention with sparsemax in place of the softmax (Martins & Astudillo 2016).

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
        """Let every position attend to its best keys alone; the rest as in `MultiHeadSelfAttention`.

        With `is_causal` a cache can be given, as in `CausalSelfAttention`.
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
    """Show the weights of rising scores, and attention in which most are zero."""
    from jax_attention.demonstration import draw, fill, show

    for scores in ([[0.0, 0.1, 0.2]], [[0.0, 0.5, 1.0]], [[0.0, 1.0, 2.0]]):
        weights = sparsemax(jnp.asarray(scores))[0]
        print(f"sparsemax of {scores[0]}:", " ".join(f"{weight:.3f}" for weight in weights.tolist()))
    words = ["the", "cat", "sat", "still"]
    attention = fill(SparsemaxAttention(embed_dim=8, num_heads=2, rngs=nnx.Rngs(0)))
    show("SparsemaxAttention", attention(draw(1, 4, 8)), words, words)


if __name__ == "__main__":
    main()
