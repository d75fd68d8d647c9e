r"""Talking-heads attention: scores and weights are mixed across heads around the softmax (Shazeer et al. 2020).

$$ L_h = Q_h K_h^\top / \sqrt{d}, \qquad J_g = \sum_h P^{\mathrm{pre}}_{gh} L_h, \qquad
   \mathrm{head}_h = \Big(\sum_g P^{\mathrm{post}}_{hg}\, \mathrm{softmax}(J_g + B_g)\Big) V_h $$

One change from `MultiHeadSelfAttention`: two learned linear maps across heads, before and after the softmax. With
identity maps it is `MultiHeadSelfAttention`. The weights of a row need not sum to one and may be negative.

| symbol                | parameter  |                                                                          |
|-----------------------|------------|--------------------------------------------------------------------------|
| $P^{\mathrm{pre}}$    | `pre_map`  | `(num_heads, num_heads)`; x-transformers stores it minus the identity    |
| $P^{\mathrm{post}}$   | `post_map` | `(num_heads, num_heads)`                                                 |
| B                     |            | bias of a positional encoding that adds one, for the mixed heads g       |
"""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.caches import KeyValue
from jax_attention.checks import check_pairs, check_sequence
from jax_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from jax_attention.layers import Factory, parameter
from jax_attention.ops import (
    at_least_float32,
    dot_product_scores,
    masked_softmax,
    merge_heads,
    split_heads,
)
from jax_attention.ops.definition import call_masks
from jax_attention.outputs import AttentionOutput, CachedOutput


@checked
def talk(
    head_map: Float[Array, "heads heads"], x: Float[Array, "batch heads query key"]
) -> Float[Array, "batch heads query key"]:
    """Mix heads linearly: output head g is the sum of the heads weighted by row g of `head_map`.

    The result is in at least float32.
    """
    return einsum("gh,bhqk->bgqk", at_least_float32(head_map), at_least_float32(x))


@checked
class TalkingHeadsAttention(SelfAttentionFrame):
    """Multi-head self-attention whose heads are mixed before and after the softmax (Shazeer et al. 2020).

    The mask must be the same for all heads, because mixing passes on the scores and weights of one head to the others.

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        is_causal: whether each position attends only to itself and earlier positions.
        bias: whether the projections have biases.
        dropout: dropout rate of the mixed attention weights in training.

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
        self.pre_map = parameter(num_heads, num_heads, std=num_heads**-0.5, **factory)
        self.post_map = parameter(num_heads, num_heads, std=num_heads**-0.5, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention with heads mixed before and after the softmax.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask. A head axis must have size 1.
            need_weights: whether to return the mixed attention weights.
            cache: with `is_causal`, a KV cache as in `CausalSelfAttention`.
            positions, lengths, segments, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        if call.get("cache") is None:
            check_sequence("x", x, self.embed_dim)
            check_pairs(x, x, mask)
        self.check(x, mask, **call)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        scores, _ = dot_product_scores(seen.query, seen.key, scale=self.scale)
        scores = talk(self.pre_map[...], scores)  # batch heads length length
        bias, visible = call_masks(seen.call())
        scores = scores if bias is None else scores + bias
        weights = talk(self.post_map[...], masked_softmax(scores, visible))  # batch heads length length
        heads = seen.read(weights)  # batch heads length head_dim
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show attention weights that are mixed across heads."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    attention = fill(TalkingHeadsAttention(embed_dim=8, num_heads=2, rngs=nnx.Rngs(0)))
    show("TalkingHeadsAttention", attention(draw(1, 3, 8)), words, words)


if __name__ == "__main__":
    main()
