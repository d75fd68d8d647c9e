r"""1.5-entmax attention: smooth like softmax, sparse like sparsemax (Peters, Niculae & Martins 2019).

$$ \mathrm{entmax}_{1.5}(z) = \arg\max_{p \in \Delta} p^\top z + \tfrac{4}{3} \sum_j \left(p_j - p_j^{1.5}\right),
   \qquad p_j = \max(z_j / 2 - \tau, 0)^2 $$

$$ \tau = \bar{x} - \sqrt{\Big(1 - \sum_{j \in S} (x_j - \bar{x})^2\Big) / k}, \qquad x = z / 2 $$

One change from `SparsemaxAttention`: weights are squares, so that they grow smoothly from zero. $\bar{x}$ is the mean
of x over the support S, which holds the k largest entries for the largest k with $\tau \le x_{(k)}$.

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
from jax_attention.arrays import take_along, with_rank
from jax_attention.caches import KeyValue
from jax_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from jax_attention.layers import Factory, precise
from jax_attention.ops import (
    at_least_float32,
    merge_heads,
    split_heads,
)
from jax_attention.outputs import AttentionOutput, CachedOutput
from jax_attention.scores.sparsemax import below_the_top, descending


@checked
def entmax15(
    scores: Float[Array, "... query key"], mask: Bool[Array, "..."] | None = None
) -> Float[Array, "... query key"]:
    """Compute the 1.5-entmax of the scores, in at least float32 (Peters, Niculae & Martins 2019).

    Args:
        scores: attention scores.
        mask: boolean mask, True where a query may attend to a key, broadcast to `scores`; None for no mask.

    Returns:
        Weights that sum to one over the keys, exactly zero where masked and outside the support. A fully masked row and
        its gradients are zero.
    """
    half = at_least_float32(scores) / 2.0
    if half.shape[-1] == 0:
        return half
    everything = jnp.ones_like(half, dtype=jnp.bool_)
    mask = everything if mask is None else everything & mask
    # The support is boolean, so no gradient flows through its computation.
    below = below_the_top(half, mask)  # ... key
    ordered = descending(below)  # ... key
    count = jnp.arange(1, half.shape[-1] + 1, dtype=half.dtype)  # key
    count = with_rank(count, half.ndim)  # ... key
    means = jnp.cumsum(ordered, axis=-1) / count  # ... key
    spreads = jnp.cumsum(ordered * ordered, axis=-1) - count * means * means  # ... key
    thresholds = means - jnp.sqrt(jnp.clip((1.0 - spreads) / count, min=0.0))  # ... key
    size = (thresholds <= ordered).sum(axis=-1, keepdims=True)  # ... 1
    threshold = jnp.clip(take_along(thresholds, size - 1, -1), min=-1.0)  # ... 1
    support = mask & (below > threshold)  # ... key
    # On the support the weights are a smooth function of the scores, so their gradient is exact.
    size = jnp.clip(support.sum(axis=-1, keepdims=True), min=1).astype(half.dtype)  # ... 1
    mean = jnp.where(support, half, 0.0).sum(axis=-1, keepdims=True) / size  # ... 1
    centred = jnp.where(support, half - mean, 0.0)  # ... key
    spread = (centred * centred).sum(axis=-1, keepdims=True)  # ... 1
    root = centred + jnp.sqrt((1.0 - spread) / size)  # ... key
    return jnp.where(support, root * root, 0.0)


@checked
class Entmax15Attention(SelfAttentionFrame):
    """Multi-head self-attention with 1.5-entmax instead of softmax (Peters, Niculae & Martins 2019).

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
        """Apply self-attention with 1.5-entmax weights.

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
        weights = entmax15(*seen.scores())  # batch heads length length
        heads = seen.read(weights)  # batch heads length head_dim
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show 1.5-entmax of increasingly spread scores, and attention in which some weights are zero."""
    from jax_attention.demonstration import draw, fill, show

    for scores in ([[0.0, 0.1, 0.2]], [[0.0, 1.0, 2.0]], [[0.0, 2.0, 4.0]]):
        weights = entmax15(jnp.asarray(scores))[0]
        print(f"entmax15 of {scores[0]}:", " ".join(f"{weight:.3f}" for weight in weights.tolist()))
    words = ["the", "cat", "sat", "still"]
    attention = fill(Entmax15Attention(embed_dim=8, num_heads=2, rngs=nnx.Rngs(0)))
    show("Entmax15Attention", attention(draw(1, 4, 8)), words, words)


if __name__ == "__main__":
    main()
